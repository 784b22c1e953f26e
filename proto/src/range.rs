//! Byte ranges, and HTTP's `Range` header.

/// The most ranges of one request that are answered each: podman asks for up to 1024 missing chunks of a layer at once.
pub const MAX_RANGES: usize = 1024;

/// The bytes `start..end` of a blob; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// `start..end`, or `None` if that is empty.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start < end { Some(Self { start, end }) } else { None }
    }

    /// How many bytes.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Never: an empty range cannot be built.
    pub const fn is_empty(self) -> bool {
        false
    }
}

/// What a `Range` header asks for, before the blob's size is known (RFC 9110, section 14.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeRequest {
    /// `bytes=a-` or `bytes=a-b`.
    From {
        /// First byte wanted.
        first: u64,
        /// Last byte wanted, inclusive; `None` means to the end.
        last: Option<u64>,
    },
    /// `bytes=-n`: the last `n` bytes.
    Suffix(u64),
}

/// A range header that starts behind the blob's end: HTTP 416.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the range starts at or behind the end of the {size} bytes")]
pub struct Unsatisfiable {
    /// How large the blob is.
    pub size: u64,
}

impl RangeRequest {
    /// Reads a `Range` header that asks for one range.
    ///
    /// `None` means that the header is to be ignored and the whole blob sent: another unit, several ranges or
    /// a malformed value (RFC 9110, section 14.2: "A server … MAY ignore the Range header field").
    pub fn parse(header: &str) -> Option<Self> {
        match Self::parse_all(header)?[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Reads a `Range` header, in its order: at least one range, and at most [`MAX_RANGES`].
    ///
    /// `None` means what it means for [`RangeRequest::parse`]; too many ranges are ignored too.
    pub fn parse_all(header: &str) -> Option<Vec<Self>> {
        let (unit, set) = header.trim().split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let all: Vec<Self> = set.split(',').take(MAX_RANGES + 1).map(Self::one).collect::<Option<_>>()?;
        (all.len() <= MAX_RANGES).then_some(all)
    }

    fn one(text: &str) -> Option<Self> {
        let (first, last) = text.trim().split_once('-')?;
        let number = |text: &str| -> Option<u64> {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            // More digits than u64 holds is a position behind every blob's end.
            digits.then(|| text.parse().unwrap_or(u64::MAX))
        };
        match (first.trim(), last.trim()) {
            ("", suffix) => Some(Self::Suffix(number(suffix)?)),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// The bytes meant, of a blob of `size` bytes.
    ///
    /// # Errors
    /// [`Unsatisfiable`] if none of the bytes exist.
    pub fn resolve(self, size: u64) -> Result<ByteRange, Unsatisfiable> {
        let range = match self {
            Self::From { first, last } => {
                ByteRange::new(first, last.map_or(size, |last| last.saturating_add(1).min(size)))
            }
            Self::Suffix(length) => ByteRange::new(size.saturating_sub(length), size),
        };
        range.ok_or(Unsatisfiable { size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let from = |first, last| Some(RangeRequest::From { first, last });
        for (header, expected) in [
            ("bytes=0-", from(0, None)),
            ("bytes=5-9", from(5, Some(9))),
            ("Bytes = 5 - 9", from(5, Some(9))),
            ("bytes=-3", Some(RangeRequest::Suffix(3))),
            ("bytes=99999999999999999999999-", from(u64::MAX, None)),
            ("bytes=9-5", None),
            ("bytes=0-1,3-4", None),
            ("bytes=", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("items=0-1", None),
            ("", None),
        ] {
            assert_eq!(RangeRequest::parse(header), expected, "{header}");
        }
    }

    #[test]
    fn several_at_once() {
        let from = |first, last| RangeRequest::From { first, last };
        let several = vec![from(0, Some(1)), from(7, Some(9)), RangeRequest::Suffix(2), from(3, None)];
        assert_eq!(RangeRequest::parse_all("bytes=0-1, 7-9,-2 ,3-"), Some(several));
        assert_eq!(RangeRequest::parse_all("bytes=0-1"), Some(vec![from(0, Some(1))]));
        for malformed in
            ["bytes=0-1,", "bytes=,0-1", "bytes=0-1,x", "bytes=0-1,9-5", "lines=0-1,2-3", "bytes="]
        {
            assert_eq!(RangeRequest::parse_all(malformed), None, "{malformed}");
        }
        let many = |count: usize| format!("bytes={}", vec!["0-1"; count].join(","));
        assert_eq!(RangeRequest::parse_all(&many(MAX_RANGES)).unwrap().len(), MAX_RANGES);
        assert_eq!(RangeRequest::parse_all(&many(MAX_RANGES + 1)), None);
    }

    #[test]
    fn resolution() {
        let resolve = |header: &str, size| RangeRequest::parse(header).unwrap().resolve(size);
        assert_eq!(resolve("bytes=0-", 10), Ok(ByteRange { start: 0, end: 10 }));
        assert_eq!(resolve("bytes=3-5", 10), Ok(ByteRange { start: 3, end: 6 }));
        assert_eq!(resolve("bytes=3-99", 10), Ok(ByteRange { start: 3, end: 10 }));
        assert_eq!(resolve("bytes=-3", 10), Ok(ByteRange { start: 7, end: 10 }));
        assert_eq!(resolve("bytes=-30", 10), Ok(ByteRange { start: 0, end: 10 }));
        assert_eq!(resolve("bytes=10-", 10), Err(Unsatisfiable { size: 10 }));
        assert_eq!(resolve("bytes=-0", 10), Err(Unsatisfiable { size: 10 }));
        assert_eq!(resolve("bytes=0-", 0), Err(Unsatisfiable { size: 0 }));
        assert_eq!(resolve("bytes=1-18446744073709551615", 10), Ok(ByteRange { start: 1, end: 10 }));
    }
}
