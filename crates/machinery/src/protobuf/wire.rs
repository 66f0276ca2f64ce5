//! Protobuf's wire format: tags, varints, lengths.

/// One field as it stands on the wire.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    pub(crate) fn bytes(self) -> Result<&'a [u8], String> {
        if let Self::Bytes(b) = self { Ok(b) } else { Err(wrong_wire_type()) }
    }

    pub(crate) fn varint(self) -> Result<u64, String> {
        if let Self::Varint(n) = self { Ok(n) } else { Err(wrong_wire_type()) }
    }

    pub(crate) fn text(self) -> Result<std::borrow::Cow<'a, str>, String> {
        self.bytes().map(String::from_utf8_lossy)
    }
}

fn wrong_wire_type() -> String {
    "proto: wrong wireType".to_owned()
}

/// Reads the fields of one message.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next field's number and content; `None` at the end.
    pub(crate) fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| format!("proto: illegal tag {}", tag >> 3))?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = self.varint()?;
                Wire::Bytes(self.take(usize::try_from(len).map_err(|_| eof())?)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(format!("proto: illegal wireType {other}")),
        };
        Ok(Some((number, wire)))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for (i, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = &self.0[i + 1..];
                return Ok(value);
            }
        }
        Err(if self.0.len() < 10 { eof() } else { "proto: integer overflow".to_owned() })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(len).ok_or_else(eof)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| eof())
    }
}

fn eof() -> String {
    "unexpected EOF".to_owned()
}

/// Appends fields to a message.
pub(crate) trait Write {
    fn put_varint(&mut self, value: u64);
    fn put_tag(&mut self, number: u32, wire_type: u64);
    fn put_bytes(&mut self, number: u32, bytes: &[u8]);
    fn put_uint(&mut self, number: u32, value: u64);
    /// Starts a nested message; give the mark to [`Write::close`].
    fn open(&mut self, number: u32) -> usize;
    fn close(&mut self, mark: usize);
}

impl Write for Vec<u8> {
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn put_tag(&mut self, number: u32, wire_type: u64) {
        self.put_varint(u64::from(number) << 3 | wire_type);
    }

    fn put_bytes(&mut self, number: u32, bytes: &[u8]) {
        self.put_tag(number, 2);
        self.put_varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }

    fn put_uint(&mut self, number: u32, value: u64) {
        self.put_tag(number, 0);
        self.put_varint(value);
    }

    fn open(&mut self, number: u32) -> usize {
        self.put_tag(number, 2);
        // Most messages are short: keep one byte for the length, make room for more when needed.
        self.push(0);
        self.len()
    }

    fn close(&mut self, mark: usize) {
        let len = self.len() - mark;
        if len < 0x80 {
            self[mark - 1] = len as u8;
            return;
        }
        let mut varint = Vec::with_capacity(10);
        varint.put_varint(len as u64);
        self.splice(mark - 1..mark, varint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Vec::new();
        out.put_uint(1, u64::MAX);
        let mark = out.open(2);
        out.put_bytes(3, &[7; 300]);
        out.close(mark);
        let mut reader = Reader(&out);
        assert_eq!(reader.field(), Ok(Some((1, Wire::Varint(u64::MAX)))));
        let (number, nested) = reader.field().unwrap().unwrap();
        assert_eq!((number, Reader(nested.bytes().unwrap()).field()), (2, Ok(Some((3, Wire::Bytes(&[7; 300]))))));
        assert_eq!(reader.field(), Ok(None));
    }

    #[test]
    fn cut_or_wild_bytes_are_refused() {
        for bytes in [&[0x80][..], &[0x0a, 5, 1], &[0x0b], &[0x00], &[0xff; 11], &[0x09, 1]] {
            assert!(Reader(bytes).field().is_err(), "{bytes:?}");
        }
    }
}
