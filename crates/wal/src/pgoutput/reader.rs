//! A bounds-checked cursor over one message.

use super::error::DecodeError;

pub(super) struct Reader<'a> {
    tag: char,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        match bytes {
            [tag, rest @ ..] => Ok(Self { tag: *tag as char, rest }),
            [] => Err(DecodeError::Truncated { tag: '?' }),
        }
    }

    pub(super) fn tag(&self) -> char {
        self.tag
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated { tag: self.tag })?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated { tag: self.tag })?;
        self.rest = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A NUL-terminated string. One that is not UTF-8 is a name in a database without an encoding, which nobody knows by it.
    pub(super) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or(DecodeError::Truncated { tag: self.tag })?;
        let text = std::str::from_utf8(&self.rest[..end]).unwrap_or("\u{fffd}");
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::TrailingBytes { tag: self.tag, bytes }),
        }
    }
}
