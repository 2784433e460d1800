//! Driver for the TMP105 and its relatives (LM75, TMP75, TMP175): temperature over I²C.
//!
//! | register | bytes | meaning |
//! |---|---|---|
//! | 0x00 | 2 | temperature, signed, big-endian, 1/256 °C; at 12 bits the last four bits are zero |
//! | 0x01 | 1 | configuration; bits 5 and 6 choose the resolution, 0b11 for 12 bits |
//!
//! (Texas Instruments, TMP105 data sheet SBOS648, section "Register Map".)
//!
//! The sensor keeps its register pointer, so a reading is a plain read. That needs no repeated start,
//! which not every I²C controller, or model of one, can do.

use core::fmt;

use embedded_hal::i2c::I2c;

const REGISTER_TEMPERATURE: u8 = 0x00;
const REGISTER_CONFIGURATION: u8 = 0x01;
const RESOLUTION_12_BITS: u8 = 0b0110_0000;

/// A temperature in thousandths of a degree Celsius.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Celsius {
    /// Thousandths of a degree.
    pub milli: i32,
}

impl fmt::Display for Celsius {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.milli < 0 { "-" } else { "" };
        let milli = self.milli.unsigned_abs();
        write!(f, "{sign}{}.{:03} °C", milli / 1000, milli % 1000)
    }
}

/// A temperature sensor on an I²C bus.
pub struct Tmp105<I2C> {
    bus: I2C,
    address: u8,
    is_configured: bool,
}

impl<I2C: I2c> Tmp105<I2C> {
    /// The sensor at `address` (7 bits). Nothing goes over the bus yet.
    pub const fn new(bus: I2C, address: u8) -> Self {
        Self { bus, address, is_configured: false }
    }

    /// Makes the next [`read`](Self::read) configure the sensor again: it may have lost its power,
    /// and with that its resolution, without our noticing.
    pub fn distrust(&mut self) {
        self.is_configured = false;
    }

    /// Reads the temperature, rounded down to a thousandth of a degree.
    ///
    /// # Errors
    /// The bus's. The next call begins with the configuration, so a sensor may come and go.
    pub fn read(&mut self) -> Result<Celsius, I2C::Error> {
        let outcome = self.configure_once().and_then(|()| self.read_temperature());
        self.is_configured = outcome.is_ok();
        outcome
    }

    fn configure_once(&mut self) -> Result<(), I2C::Error> {
        if self.is_configured {
            return Ok(());
        }
        self.bus.write(self.address, &[REGISTER_CONFIGURATION, RESOLUTION_12_BITS])?;
        self.bus.write(self.address, &[REGISTER_TEMPERATURE])
    }

    fn read_temperature(&mut self) -> Result<Celsius, I2C::Error> {
        let mut register = [0; 2];
        self.bus.read(self.address, &mut register)?;
        Ok(celsius_from_register(register))
    }
}

/// 1000/256 = 125/32, and shifting a signed number right rounds down.
fn celsius_from_register(register: [u8; 2]) -> Celsius {
    Celsius { milli: (i32::from(i16::from_be_bytes(register)) * 125) >> 5 }
}

#[cfg(test)]
pub(crate) mod double;

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
    use proptest::prelude::*;

    use super::{double::SensorDouble, *};

    const ADDRESS: u8 = 0x48;

    #[test]
    fn the_register_means_what_the_data_sheet_says() {
        for (register, milli) in [
            ([0x7f, 0xf0], 127_937),
            ([0x64, 0x00], 100_000),
            ([0x50, 0x00], 80_000),
            ([0x19, 0x00], 25_000),
            ([0x00, 0x40], 250),
            ([0x00, 0x10], 62),
            ([0x00, 0x00], 0),
            ([0xff, 0xf0], -63),
            ([0xff, 0xc0], -250),
            ([0xe7, 0x00], -25_000),
            ([0xc9, 0x00], -55_000),
            ([0x80, 0x00], -128_000),
        ] {
            assert_eq!(celsius_from_register(register), Celsius { milli }, "{register:x?}");
        }
    }

    #[test]
    fn temperatures_near_zero_keep_their_sign() {
        assert_eq!(Celsius { milli: -63 }.to_string(), "-0.063 °C");
        assert_eq!(Celsius { milli: 21_500 }.to_string(), "21.500 °C");
    }

    #[test]
    fn a_sensor_that_was_away_is_configured_again() {
        let bus = SensorDouble::at(ADDRESS);
        let mut sensor = Tmp105::new(bus.clone(), ADDRESS);
        bus.set_milli_celsius(21_438);
        assert_eq!(sensor.read(), Ok(Celsius { milli: 21_437 }));
        bus.unplug();
        let no_answer = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);
        assert_eq!(sensor.read(), Err(no_answer));
        assert_eq!(sensor.read(), Err(no_answer));
        bus.plug_in();
        bus.set_milli_celsius(21_438);
        assert_eq!(sensor.read(), Ok(Celsius { milli: 21_437 }));
    }

    #[test]
    fn a_lost_resolution_is_noticed_only_by_distrust() {
        let bus = SensorDouble::at(ADDRESS);
        let mut sensor = Tmp105::new(bus.clone(), ADDRESS);
        bus.set_milli_celsius(21_438);
        sensor.read().expect("the sensor answers");
        bus.cut_power_briefly();
        bus.set_milli_celsius(21_438);
        assert_eq!(sensor.read(), Ok(Celsius { milli: 21_000 }));
        sensor.distrust();
        assert_eq!(sensor.read(), Ok(Celsius { milli: 21_437 }));
    }

    #[test]
    fn every_fault_of_the_bus_comes_through_and_none_stays() {
        let data = NoAcknowledgeSource::Data;
        for fault in [ErrorKind::Bus, ErrorKind::ArbitrationLoss, ErrorKind::NoAcknowledge(data)] {
            // The first three transfers of a fresh sensor: configuration, pointer, temperature.
            for transfers_before in 0..3 {
                let bus = SensorDouble::at(ADDRESS);
                let mut sensor = Tmp105::new(bus.clone(), ADDRESS);
                bus.set_milli_celsius(-10_000);
                bus.fail_after(transfers_before, fault);
                assert_eq!(sensor.read(), Err(fault), "{transfers_before}");
                assert_eq!(sensor.read(), Ok(Celsius { milli: -10_000 }), "{transfers_before}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_reading_is_within_one_step_below_the_truth(milli in -55_000..127_900i32) {
            let bus = SensorDouble::at(ADDRESS);
            bus.set_milli_celsius(milli);
            let read = Tmp105::new(bus, ADDRESS).read().expect("the sensor answers");
            prop_assert!((milli - 63..=milli).contains(&read.milli), "{read}");
        }
    }
}
