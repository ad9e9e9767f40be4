//! Whether figures are what they should be.

/// The verdict on the figures so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdicts {
    /// How many figures are not what they should be.
    pub missed: u32,
}

impl Verdicts {
    /// Judges a figure that should not exceed a bound.
    pub fn at_most(&mut self, measured: f64, bound: f64) -> &'static str {
        if measured <= bound {
            return "holds";
        }
        self.missed += 1;
        "MISSED"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_does_not_hold() {
        let mut verdicts = Verdicts::default();
        assert_eq!(verdicts.at_most(1.0, 1.0), "holds");
        assert_eq!(verdicts.at_most(1.1, 1.0), "MISSED");
        assert_eq!(verdicts.at_most(f64::NAN, 1.0), "MISSED");
        assert_eq!(verdicts.missed, 2);
    }
}
