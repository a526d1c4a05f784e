//! Sizes for people.

/// A number of bytes in the largest unit of which there is one.
pub(crate) fn shown(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} {}", units[unit]) } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn sizes_have_units() {
        assert_eq!([0.0, 1023.0, 1024.0, 1.5 * 1024.0 * 1024.0].map(shown), ["0 B", "1023 B", "1.0 KiB", "1.5 MiB"]);
        assert_eq!(shown(2048.0 * 1024.0_f64.powi(4)), "2048.0 TiB");
    }
}
