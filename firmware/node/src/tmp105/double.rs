//! A sensor on a bus, as tests see it: registers, pointer, resolution, and faults on demand.

use std::{cell::RefCell, rc::Rc};

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};

/// A handle; clones share the sensor.
#[derive(Clone)]
pub(crate) struct SensorDouble(Rc<RefCell<State>>);

struct State {
    address: u8,
    is_plugged_in: bool,
    pointer: u8,
    configuration: u8,
    /// 1/256 °C, at the full resolution.
    temperature: i16,
    fault: Option<Fault>,
}

struct Fault {
    transfers_before: usize,
    kind: ErrorKind,
}

impl SensorDouble {
    pub(crate) fn at(address: u8) -> Self {
        Self(Rc::new(RefCell::new(State {
            address,
            is_plugged_in: true,
            pointer: 0,
            configuration: 0,
            temperature: 0,
            fault: None,
        })))
    }

    /// The sensor rounds down to sixteenths of a degree.
    pub(crate) fn set_milli_celsius(&self, milli: i32) {
        let sixteenths = (milli * 2).div_euclid(125);
        self.0.borrow_mut().temperature =
            i16::try_from(sixteenths * 16).expect("the temperature is in the sensor's range");
    }

    pub(crate) fn unplug(&self) {
        self.0.borrow_mut().is_plugged_in = false;
    }

    pub(crate) fn plug_in(&self) {
        self.0.borrow_mut().is_plugged_in = true;
        self.cut_power_briefly();
    }

    /// All registers are as after power-on: 9 bits, pointer at the temperature.
    pub(crate) fn cut_power_briefly(&self) {
        let mut state = self.0.borrow_mut();
        (state.pointer, state.configuration, state.temperature) = (0, 0, 0);
    }

    /// One transfer fails with `kind`, after `transfers_before` that succeed.
    pub(crate) fn fail_after(&self, transfers_before: usize, kind: ErrorKind) {
        self.0.borrow_mut().fault = Some(Fault { transfers_before, kind });
    }
}

impl ErrorType for SensorDouble {
    type Error = ErrorKind;
}

impl I2c for SensorDouble {
    fn transaction(
        &mut self,
        address: u8,
        operations: &mut [Operation<'_>],
    ) -> Result<(), ErrorKind> {
        let mut state = self.0.borrow_mut();
        state.fault_due()?;
        if !state.is_plugged_in || address != state.address {
            return Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address));
        }
        for operation in operations {
            match operation {
                Operation::Read(buffer) => state.read(buffer),
                Operation::Write(bytes) => state.write(bytes)?,
            }
        }
        Ok(())
    }
}

impl State {
    fn fault_due(&mut self) -> Result<(), ErrorKind> {
        match &mut self.fault {
            Some(fault) if fault.transfers_before > 0 => {
                fault.transfers_before -= 1;
                Ok(())
            }
            Some(_) => self.fault.take().map_or(Ok(()), |fault| Err(fault.kind)),
            None => Ok(()),
        }
    }

    fn read(&self, buffer: &mut [u8]) {
        let content = match self.pointer {
            0 => (self.temperature & self.resolution_mask()).to_be_bytes(),
            _ => [self.configuration; 2],
        };
        // Reading on past the register repeats its last byte.
        for (place, byte) in buffer.iter_mut().enumerate() {
            *byte = content[place.min(1)];
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ErrorKind> {
        let data_refused = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data);
        match bytes {
            [pointer @ 0..=3] => self.pointer = *pointer,
            [1, configuration] => (self.pointer, self.configuration) = (1, *configuration),
            _ => return Err(data_refused),
        }
        Ok(())
    }

    /// 9 bits leave half degrees; each further bit halves the step.
    fn resolution_mask(&self) -> i16 {
        let bits_extra = self.configuration >> 5 & 0b11;
        !(0x7f >> bits_extra)
    }
}
