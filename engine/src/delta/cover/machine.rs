//! Where machine code holds an address relative to itself. A site is judged by old bytes alone, which both sides have.
//! No file format is parsed: the unit may be made of pieces of many files.

/// What a unit's code is for, as its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    /// None, or one that is not known.
    None,
    /// x86 and x86-64.
    X86,
    /// 64-bit ARM.
    Arm64,
}

/// The four bytes of a site, as a number that moves with its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// All four bytes: target minus site.
    Offset,
    /// The lower 26 bits: a quarter of target minus site.
    Branch,
    /// 21 bits in two parts: pages from the site to the target.
    Page,
}

/// A relative address among the old bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) form: Form,
    /// Which pattern it is, 1 to 3; for contexts.
    pub(super) kind: u32,
    /// The old value.
    pub(super) value: u32,
    /// The old target, but for a constant.
    pub(super) target: u32,
}

/// Second bytes of instructions whose operand is relative to them, as opcodes that go before a ModRM byte.
static OPERAND_OPCODES: [bool; 256] = {
    let mut table = [false; 256];
    let opcodes = [
        0x8b, 0x8d, 0x89, 0x3b, 0x39, 0x10, 0x11, 0x28, 0x29, 0x6f, 0x7e, 0x58, 0x59, 0x80, 0x83, 0xc7, 0xff,
        0x38, 0x3d, 0x01, 0x03, 0xb6, 0xc6, 0x88, 0x8a, 0xd6, 0x2f, 0x2e, 0x51, 0x5c, 0x5e, 0x5a, 0x2a, 0x54,
        0x57, 0x7f, 0x16, 0x63, 0xf6, 0x15,
    ];
    let mut n = 0;
    while n < opcodes.len() {
        table[opcodes[n]] = true;
        n += 1;
    }
    table
};

/// What the byte before an x86 operand says: 0 no site, 1 a call or jump, 2 a conditional jump after 0F, 3 a ModRM
/// byte for an address relative to the instruction.
static BEFORE: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte {
            0xe8 | 0xe9 => 1,
            _ if byte & 0xc7 == 0x05 => 3,
            0x80..=0x8f => 2,
            _ => 0,
        };
        byte += 1;
    }
    table
};

/// What the upper byte of an ARM instruction says: 0 no site, 1 BL, 2 B, 3 ADRP.
static UPPER: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte {
            0x94..=0x97 => 1,
            0x14..=0x17 => 2,
            _ if byte & 0x9f == 0x90 => 3,
            _ => 0,
        };
        byte += 1;
    }
    table
};

/// The old bytes that a site at an old place is judged by begin this far before it.
pub(super) const BEFORE_LEN: usize = 2;

impl Machine {
    /// The machine numbered so in a header.
    pub(super) fn of_number(number: u8) -> Option<Machine> {
        [Machine::None, Machine::X86, Machine::Arm64].get(number as usize).copied()
    }

    /// Its number in a header.
    pub(super) fn number(self) -> u8 {
        match self {
            Machine::None => 0,
            Machine::X86 => 1,
            Machine::Arm64 => 2,
        }
    }

    /// Whether the six bytes from two before `at` can be a site; most are not, and this is cheap.
    #[inline]
    fn kind(self, around: &[u8; 6]) -> u8 {
        match self {
            Machine::None => 0,
            Machine::X86 => BEFORE[around[1] as usize],
            Machine::Arm64 => UPPER[around[5] as usize],
        }
    }

    /// The site at the old place `at`, from the six bytes that begin two before it.
    #[inline]
    pub(super) fn site(self, around: &[u8; 6], at: u32) -> Option<Site> {
        let kind = self.kind(around);
        if kind == 0 {
            return None;
        }
        let value = u32::from_le_bytes([around[2], around[3], around[4], around[5]]);
        let (form, target) = match (self, kind) {
            (Machine::Arm64, 3) => (Form::Page, at.wrapping_add(pages(value).wrapping_shl(12)) >> 12),
            (Machine::Arm64, _) => (Form::Branch, at.wrapping_add(branch(value).wrapping_shl(2))),
            _ => {
                let near = matches!(around[5], 0x00 | 0x01 | 0xfe | 0xff);
                let opcode = match kind {
                    2 => around[0] == 0x0f,
                    3 => OPERAND_OPCODES[around[0] as usize],
                    _ => true,
                };
                if !near || !opcode {
                    return None;
                }
                (Form::Offset, at.wrapping_add(value))
            }
        };
        Some(Site { form, kind: u32::from(kind), value, target })
    }

    /// The first place within `old` that may be a site: `old` begins two bytes before the first place that counts, and
    /// ends three after the last.
    #[inline]
    pub(super) fn next_site(self, old: &[u8]) -> Option<usize> {
        match self {
            Machine::None => None,
            Machine::X86 => {
                old.get(1..old.len().checked_sub(4)?)?.iter().position(|byte| BEFORE[*byte as usize] != 0)
            }
            Machine::Arm64 => old.get(5..)?.iter().position(|byte| UPPER[*byte as usize] != 0),
        }
    }
}

// Sign-extended, wrapping.
fn branch(value: u32) -> u32 {
    ((value << 6) as i32 >> 6) as u32
}

fn pages(value: u32) -> u32 {
    let low = value >> 29 & 3;
    let high = ((value << 8) as i32 >> 13) as u32;
    high << 2 | low
}

impl Site {
    /// Where its target lies in the unit, where code and unit agree.
    #[inline]
    pub(super) fn place(&self) -> u32 {
        match self.form {
            Form::Offset => self.target.wrapping_add(4),
            Form::Branch => self.target,
            Form::Page => self.target << 12 | 0x800,
        }
    }

    /// The value when the site moved by `moved` and its target by `shift`.
    #[inline]
    pub(super) fn predict(&self, shift: u32, moved: u32) -> u32 {
        let by = shift.wrapping_sub(moved);
        match self.form {
            Form::Offset => self.value.wrapping_add(by),
            Form::Branch => {
                let quarter = (by as i32 >> 2) as u32;
                self.value & 0xfc00_0000 | branch(self.value).wrapping_add(quarter) & 0x03ff_ffff
            }
            Form::Page => {
                let now = pages(self.value).wrapping_add((by.wrapping_add(0x800) as i32 >> 12) as u32);
                self.value & 0x9f00_001f | (now & 3) << 29 | (now >> 2 & 0x7_ffff) << 5
            }
        }
    }

    /// How far the target moved, from the new value; `None` when the new bytes are no such site.
    #[inline]
    pub(super) fn shift(&self, now: u32, moved: u32) -> Option<u32> {
        let by = match self.form {
            Form::Offset => now.wrapping_sub(self.value),
            Form::Branch if (now ^ self.value) & 0xfc00_0000 != 0 => return None,
            Form::Branch => branch(now).wrapping_sub(branch(self.value)) << 2,
            Form::Page if (now ^ self.value) & 0x9f00_001f != 0 => return None,
            Form::Page => pages(now).wrapping_sub(pages(self.value)) << 12,
        };
        Some(by.wrapping_add(moved))
    }
}
