//! Base64 as in RFC 4648 §4, strict: the standard alphabet, padded, no blanks.

/// Returns the bytes, or `None` for anything but canonical base64.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let (chunks, []) = text.as_bytes().as_chunks::<4>() else { return None };
    let mut out = Vec::with_capacity(chunks.len() * 3);
    let last = chunks.len().saturating_sub(1);
    for (at, chunk) in chunks.iter().enumerate() {
        let padding = chunk.iter().rev().take_while(|byte| **byte == b'=').count();
        if padding > 2 || (padding > 0 && at != last) {
            return None;
        }
        let mut bits = 0_u32;
        for byte in chunk.iter().take(4 - padding) {
            bits = (bits << 6) | u32::from(sextet(*byte)?);
        }
        bits <<= 6 * padding;
        let [_, bytes @ ..] = bits.to_be_bytes();
        let (keep, cut) = bytes.split_at(3 - padding);
        // Bits that the padding cuts off are zero in canonical base64.
        if cut.iter().any(|byte| *byte != 0) {
            return None;
        }
        out.extend_from_slice(keep);
    }
    Some(out)
}

fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn the_test_vectors_of_the_rfc_decode() {
        // RFC 4648 §10.
        let vectors = [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ];
        for (text, bytes) in vectors {
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(decode("/+8A"), Some(vec![0xFF, 0xEF, 0x00]));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["Zg", "Zg=", "Z===", "====", "Zg==Zg==", "Zm9v\n", "Zm 9", "Zh==", "Zm9=", "_-8A", "Zg=a", "Zmé="]
        {
            assert_eq!(decode(bad), None, "{bad:?} was let in");
        }
    }
}
