//! Everything that a device can ask of `trust`, in one program whose size is measured: `core/trust/footprint`.
//!
//! It reads documents from standard input, each until a line that says `end`, and prints what it makes of them.

use std::{
    error::Error,
    io::{BufRead, stdin},
};

use selvedge_trust::{
    Answer, Limits, Next, Refresh, RoleName, TrustedMetadata, TrustedRoot, UnixMillis,
};

fn main() -> Result<(), Box<dyn Error>> {
    let now = UnixMillis::from_iso8601(&line()).ok_or("the first line is a time")?;
    let (device, fleet) = (line().parse()?, line().parse()?);

    let root = document();
    let pinned = TrustedRoot::pin(&root)?;
    let desired = pinned.verify_desired(&document(), &device, &fleet, 0, now)?;
    println!("{}", desired.generation);

    let mut trusted = TrustedMetadata::new([(RoleName::root(), root)]);
    let mut refresh = Refresh::start(&trusted, now, Limits::default())?;
    let repository = loop {
        let answer = answer(&refresh.request().file);
        let next = refresh.answer(answer, &mut trusted);
        trusted.take_changes().iter().for_each(|role| println!("changed: {}", role.file_name()));
        match next? {
            Next::Fetch(state) => refresh = state,
            Next::Done(repository) => break repository,
        }
    };
    let mut next = repository.search(&line(), &trusted)?;
    let target = loop {
        match next {
            Next::Done(target) => break target.ok_or("there is no such target")?,
            Next::Fetch(search) => {
                let answer = answer(&search.request().file);
                next = search.answer(answer, &mut trusted)?;
            }
        }
    };
    println!("{}", repository.target_request(&target)?.file);
    let mut check = target.check();
    check.update(&document())?;
    Ok(check.finish()?)
}

fn answer(file: &str) -> Answer {
    println!("{file}?");
    match document() {
        bytes if bytes.is_empty() => Answer::NotFound,
        bytes => Answer::Found(bytes),
    }
}

fn document() -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let line = line();
        if line.is_empty() || line == "end" {
            return bytes;
        }
        bytes.extend(line.bytes());
    }
}

fn line() -> String {
    let mut line = String::new();
    // A reader that fails has nothing more to say.
    let _ = stdin().lock().read_line(&mut line);
    line.truncate(line.trim_end().len());
    line
}
