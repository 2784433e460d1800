//! The memory-mapped registers that the image uses, and the only unsafe code of its own.
//!
//! (Texas Instruments, LM3S6965 data sheet, SPMS146: system control, GPIO, UART and I²C chapters.)

use core::ptr;

/// A 32-bit register of the chip.
#[derive(Clone, Copy)]
pub struct Register(usize);

impl Register {
    /// Reads the register.
    pub fn read(self) -> u32 {
        // SAFETY: a `Register` can only be one of the constants below. Each is the address of a
        // 32-bit register of the chip, aligned, outside of all memory that Rust knows, and readable
        // in every state of the program: `board::start` gives the peripherals their clocks first.
        unsafe { ptr::read_volatile(ptr::with_exposed_provenance(self.0)) }
    }

    /// Writes the register.
    pub fn write(self, value: u32) {
        // SAFETY: as for `read`. None of these registers makes the chip read or write memory.
        unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut(self.0), value) }
    }

    /// Sets the bits in `mask`.
    pub fn set(self, mask: u32) {
        self.write(self.read() | mask);
    }
}

const SYSTEM_CONTROL: usize = 0x400f_e000;
/// Raw interrupt status; bit 6: the PLL has locked.
pub const RIS: Register = Register(SYSTEM_CONTROL + 0x050);
/// Run-mode clock configuration.
pub const RCC: Register = Register(SYSTEM_CONTROL + 0x060);
/// Clocks of UARTs and I²C.
pub const RCGC1: Register = Register(SYSTEM_CONTROL + 0x104);
/// Clocks of the GPIO ports.
pub const RCGC2: Register = Register(SYSTEM_CONTROL + 0x108);
/// The first three bytes of the MAC address, the first of them lowest.
pub const USER_REG0: Register = Register(SYSTEM_CONTROL + 0x1e0);
/// The last three bytes of the MAC address.
pub const USER_REG1: Register = Register(SYSTEM_CONTROL + 0x1e4);

const GPIO_PORT_A: usize = 0x4000_4000;
/// Port A: pins that a peripheral drives.
pub const GPIOA_AFSEL: Register = Register(GPIO_PORT_A + 0x420);
/// Port A: digital pins.
pub const GPIOA_DEN: Register = Register(GPIO_PORT_A + 0x51c);
const GPIO_PORT_B: usize = 0x4000_5000;
/// Port B: pins that a peripheral drives.
pub const GPIOB_AFSEL: Register = Register(GPIO_PORT_B + 0x420);
/// Port B: open-drain pins.
pub const GPIOB_ODR: Register = Register(GPIO_PORT_B + 0x50c);
/// Port B: digital pins.
pub const GPIOB_DEN: Register = Register(GPIO_PORT_B + 0x51c);

const UART0: usize = 0x4000_c000;
/// Data.
pub const UART0_DR: Register = Register(UART0);
/// Flags; bit 5: the transmit FIFO is full, bit 3: busy.
pub const UART0_FR: Register = Register(UART0 + 0x018);
/// Baud rate divisor, whole part.
pub const UART0_IBRD: Register = Register(UART0 + 0x024);
/// Baud rate divisor, in 64ths.
pub const UART0_FBRD: Register = Register(UART0 + 0x028);
/// Line control.
pub const UART0_LCRH: Register = Register(UART0 + 0x02c);
/// Control.
pub const UART0_CTL: Register = Register(UART0 + 0x030);

const I2C0: usize = 0x4002_0000;
/// Address and direction.
pub const I2C0_MSA: Register = Register(I2C0);
/// Commands when written, status when read.
pub const I2C0_MCS: Register = Register(I2C0 + 0x004);
/// Data.
pub const I2C0_MDR: Register = Register(I2C0 + 0x008);
/// Timer period.
pub const I2C0_MTPR: Register = Register(I2C0 + 0x00c);
/// Configuration; bit 4: master.
pub const I2C0_MCR: Register = Register(I2C0 + 0x020);
