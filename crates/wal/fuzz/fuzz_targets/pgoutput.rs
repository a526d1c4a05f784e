//! The pgoutput decoder on arbitrary bytes: it must return, and a decoded message must not depend on bytes beyond its end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_wal::pgoutput::decode;

fuzz_target!(|data: &[u8]| {
    if decode(data).is_ok() {
        for length in 0..data.len() {
            assert!(decode(&data[..length]).is_err(), "a prefix of a whole message is no whole message");
        }
    }
});
