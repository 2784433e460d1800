//! Everything that a device can ask of `trust`, in one program whose size is measured: `core/trust/footprint`.
//!
//! What it asks about comes from nowhere and its answers go nowhere, so that nothing else adds to its size.

use std::{error, hint::black_box};

use selvedge_trust::{
    Answer, BundleTarget, DeviceKey, Error, Limits, MessageSigner, Next, PublicKey, Refresh,
    RoleName, TrustedMetadata, UnixMillis,
};

fn main() {
    if let Err(error) = ask() {
        let mut error: Option<&dyn error::Error> = Some(&error);
        while let Some(layer) = error {
            black_box(layer.to_string());
            error = layer.source();
        }
    }
}

fn ask() -> Result<(), Error> {
    let now = black_box(UnixMillis(0));
    let files = black_box(Vec::<(RoleName, Vec<u8>)>::new());
    let mut trusted = TrustedMetadata::new(files);
    let mut next = Refresh::pushed(document(), &mut trusted, now, Limits::DEVICE)?;
    let repository = loop {
        match next {
            Next::Done(repository) => break repository,
            Next::Fetch(refresh) => {
                let answer = answer(&refresh.request().file);
                next = refresh.answer(answer, &mut trusted)?;
            }
        }
    };
    black_box(trusted.take_changes());
    trusted.files().for_each(|(role, bytes)| _ = black_box((role.file_name(), bytes)));
    black_box(trusted.state());

    let mut next = repository.search(black_box(""), &trusted)?;
    let target = loop {
        match next {
            Next::Done(target) => break target,
            Next::Fetch(search) => {
                let answer = answer(&search.request().file);
                next = search.answer(answer, &mut trusted)?;
            }
        }
    };
    if let Some(target) = target {
        let bundle = BundleTarget::read(&target)?;
        black_box((bundle.path(), bundle.allows_hardware(black_box(""))));
        black_box(bundle);
    }

    let root = trusted.root()?;
    let (device, fleet) = black_box(("d".parse(), "f".parse()));
    if let (Ok(device), Ok(fleet)) = (device, fleet) {
        black_box(root.verify_desired(&document(), &device, &fleet, black_box(0), now)?);
    }
    let key = DeviceKey::from_pkcs8(&document())?;
    let signed = black_box(key.sign_message(black_box(""), document()));
    black_box((key.public_key().to_hex(), root.verify_message(black_box(""), &signed)));
    black_box(PublicKey::from_hex(black_box("")));
    Ok(())
}

fn answer(file: &str) -> Answer {
    black_box(file);
    black_box(Answer::Found(document()))
}

fn document() -> Vec<u8> {
    black_box(Vec::new())
}
