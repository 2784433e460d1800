//! Clocks, pins and the parts of the board that the node uses.

use cortex_m::Peripherals;
use selvedge_wire::NodeId;

use crate::{
    i2c::I2c0,
    registers::{
        GPIOA_AFSEL, GPIOA_DEN, GPIOB_AFSEL, GPIOB_DEN, GPIOB_ODR, RCC, RCGC1, RCGC2, RIS,
        USER_REG0, USER_REG1,
    },
    systick::Uptime,
    uart::Uart0,
};

/// The frequency of core and peripherals after [`start`], in Hz.
pub const CORE_HZ: u32 = 50_000_000;

/// What the node is made of.
pub struct Board {
    /// The board's name.
    pub node: NodeId,
    /// The time since the start.
    pub clock: Uptime,
    /// The bus of the sensor.
    pub i2c: I2c0,
    /// The line to the gateway.
    pub uart: Uart0,
}

/// Brings the board up, once.
pub fn start() -> Board {
    let core = Peripherals::take().expect("the board is started once");
    run_from_pll();
    connect_pins();
    let clock = Uptime::start(core.SYST);
    Board { node: node_id(), clock, i2c: I2c0::start(), uart: Uart0::start() }
}

/// 8 MHz crystal, PLL at 200 MHz after its own division, divided by 4.
///
/// The order is the data sheet's ("Main PLL Initialization"): bypass first, wait for the lock last.
fn run_from_pll() {
    const SYSDIV: u32 = 0xf << 23;
    const SYSDIV_BY_4: u32 = 3 << 23;
    const USESYSDIV: u32 = 1 << 22;
    const PWRDN: u32 = 1 << 13;
    const BYPASS: u32 = 1 << 11;
    const XTAL: u32 = 0xf << 6;
    const XTAL_8_MHZ: u32 = 0xe << 6;
    const OSCSRC: u32 = 0x3 << 4;
    const MOSCDIS: u32 = 1;
    const PLL_LOCKED: u32 = 1 << 6;

    RCC.write((RCC.read() | BYPASS) & !(USESYSDIV | MOSCDIS));
    RCC.write(RCC.read() & !(XTAL | OSCSRC | PWRDN) | XTAL_8_MHZ);
    RCC.write(RCC.read() & !SYSDIV | SYSDIV_BY_4 | USESYSDIV);
    while RIS.read() & PLL_LOCKED == 0 {}
    RCC.write(RCC.read() & !BYPASS);
}

/// UART0 on PA0 and PA1, I²C0 on PB2 and PB3.
fn connect_pins() {
    const RCGC1_UART0: u32 = 1 << 0;
    const RCGC1_I2C0: u32 = 1 << 12;
    const RCGC2_PORTS_A_AND_B: u32 = 0b11;
    const UART0_PINS: u32 = 0b0011;
    const I2C0_PINS: u32 = 0b1100;

    RCGC1.set(RCGC1_UART0 | RCGC1_I2C0);
    RCGC2.set(RCGC2_PORTS_A_AND_B);
    // A peripheral answers three cycles after it was given its clock; reading back takes longer.
    let _ = RCGC2.read();
    GPIOA_AFSEL.set(UART0_PINS);
    GPIOA_DEN.set(UART0_PINS);
    GPIOB_AFSEL.set(I2C0_PINS);
    GPIOB_ODR.set(I2C0_PINS);
    GPIOB_DEN.set(I2C0_PINS);
}

/// The MAC address of the board's Ethernet, which its maker wrote to the user registers.
fn node_id() -> NodeId {
    let [a, b, c, _] = USER_REG0.read().to_le_bytes();
    let [d, e, f, _] = USER_REG1.read().to_le_bytes();
    NodeId(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
}
