//! Sizes as people write them.

use std::fmt;
use std::str::FromStr;

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of bytes, written as `256MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write a whole number and KiB, MiB or GiB, as in 256MiB")]
pub struct SizeError(String);

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError(text.chars().take(40).collect());
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(error)?;
        let number: u64 = number.parse().map_err(|_| error())?;
        number.checked_mul(*unit).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = UNITS.into_iter().find(|(_, unit)| self.0 >= *unit).unwrap_or(("B", 1));
        if unit == 1 {
            return write!(f, "{} B", self.0);
        }
        // Tenths, rounded: exact enough to read, and no float.
        let tenths = (u128::from(self.0) * 10 + u128::from(unit) / 2) / u128::from(unit);
        write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// Reads a size within bounds, for the command line.
pub fn between(
    least: u64,
    most: u64,
) -> impl Fn(&str) -> Result<ByteSize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let size: ByteSize = text.parse().map_err(|error: SizeError| error.to_string())?;
        if (least..=most).contains(&size.0) {
            Ok(size)
        } else {
            Err(format!("{size} is not between {} and {}", ByteSize(least), ByteSize(most)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_and_out() {
        assert_eq!("256MiB".parse(), Ok(ByteSize(256 << 20)));
        assert_eq!("1 GiB".parse(), Ok(ByteSize(1 << 30)));
        for text in ["", "12", "MiB", "1.5GiB", "-1MiB", "1MB", "99999999999GiB"] {
            assert!(text.parse::<ByteSize>().unwrap_err().to_string().contains("256MiB"), "{text}");
        }
        assert_eq!(ByteSize(256 << 20).to_string(), "256.0 MiB");
        assert_eq!(ByteSize(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteSize(3).to_string(), "3 B");
        let small = between(4 << 20, 64 << 30);
        assert!(small("1MiB").unwrap_err().contains("between 4.0 MiB and 64.0 GiB"));
        assert_eq!(small("8MiB"), Ok(ByteSize(8 << 20)));
    }
}
