//! As much of DER as it takes to find a key in a certificate, and the numbers in a key.

/// One element: with its head, and without.
pub(super) struct Element<'d> {
    pub whole: &'d [u8],
    pub content: &'d [u8],
}

/// One DER element with this tag, and what is behind it.
pub(super) fn element(der: &[u8], tag: u8) -> Option<(Element<'_>, &[u8])> {
    let [first, length, ..] = *der else { return None };
    if first != tag {
        return None;
    }
    let (length, head) = if length < 0x80 {
        (usize::from(length), 2)
    } else {
        let count = usize::from(length & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let bytes = der.get(2..2 + count)?;
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), 2 + count)
    };
    let whole = der.get(..head.checked_add(length)?)?;
    Some((Element { whole, content: &whole[head..] }, &der[whole.len()..]))
}
