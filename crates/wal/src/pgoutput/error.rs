//! What a message cannot be read as.

/// The bytes are not a message of protocol version 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends before its contents do.
    #[error("message '{tag}' is cut short")]
    Truncated {
        /// The message's tag.
        tag: char,
    },
    /// The message goes on after its contents.
    #[error("message '{tag}' has {bytes} bytes too many")]
    TrailingBytes {
        /// The message's tag.
        tag: char,
        /// How many.
        bytes: usize,
    },
    /// A tag that the protocol does not define.
    #[error("unknown {what} tag {tag:#04x}")]
    UnknownTag {
        /// Which tag: message, tuple or column.
        what: &'static str,
        /// The byte.
        tag: u8,
    },
}
