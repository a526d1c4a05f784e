//! What somebody who mistyped a word may have meant.

/// The most similar of several words, if any is similar: a letter in three may be wrong.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean "…"?`, or what to say otherwise.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>, otherwise: impl Into<String>) -> String {
    match nearest(word, known) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None => otherwise.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn what_is_similar_is_found() {
        let known = ["url", "slot", "publication", "order_search"];
        assert_eq!(nearest("slto", known), Some("slot"));
        assert_eq!(nearest("ulr", known), Some("url"));
        assert_eq!(nearest("Publicaton", known), Some("publication"));
        assert_eq!(nearest("ordersearch", known), Some("order_search"));
        assert_eq!(nearest("listen", known), None);
    }
}
