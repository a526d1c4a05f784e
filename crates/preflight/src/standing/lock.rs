//! The lock of the instance that writes to a target.

/// The session-level advisory lock of the instance that writes: "lockstep" with the top bit set.
pub const WRITER_LOCK: i64 = i64::MIN | 0x6C6F_636B_7374_6570;
