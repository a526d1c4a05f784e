//! Where a page ended: the values of its last row that the order is made of.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::ReadError;

/// A client keeps it and gives it back; it is readable, and means nothing outside the same order.
pub(crate) fn encode(values: &[Option<String>]) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_string(values).unwrap_or_default())
}

pub(crate) fn decode(text: &str, length: usize) -> Result<Vec<Option<String>>, ReadError> {
    let values: Option<Vec<Option<String>>> =
        URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    values
        .filter(|values| values.len() == length)
        .ok_or_else(|| ReadError::bad("after", "not a cursor of this order; take it from \"next\" of the page before"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let values = vec![Some("a\"b".to_owned()), None];
        assert_eq!(decode(&encode(&values), 2), Ok(values.clone()));
        assert!(decode(&encode(&values), 3).is_err());
        assert!(decode("nonsense", 1).is_err());
    }
}
