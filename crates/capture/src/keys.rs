//! A compact set of row identities.
//!
//! Keys are text, as the stream delivers them: bytes, which nobody promises to be UTF-8. They lie back to back in one buffer with a table of 4-byte indices beside it, so
//! that a million small keys cost some 20 bytes each and not an allocation each.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};
use lockstep_connect::TextRef;

/// A set of keys, all with the same number of columns.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    columns: usize,
    bytes: Vec<u8>,
    ends: Vec<u32>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

/// The buffer is addressed with 32 bits; a set refuses to grow beyond this.
const BYTES_MAX: usize = u32::MAX as usize / 2;

/// What a key has at most that counts as one.
const BYTES_PER_KEY: usize = 256;

impl KeySet {
    /// An empty set of keys of `columns` columns.
    pub fn new(columns: usize) -> Self {
        Self { columns, ..Self::default() }
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The number of keys, where long ones count for several: what the set may be bounded by.
    pub fn weight(&self) -> usize {
        self.len().max(self.bytes.len() / BYTES_PER_KEY)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The number of columns of a key.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Adds a key; false if the set is full (its bytes, not its keys) and the key was not added.
    #[must_use]
    pub fn insert(&mut self, fields: &[&[u8]]) -> bool {
        debug_assert_eq!(fields.len(), self.columns);
        let start = self.bytes.len();
        for field in fields {
            // A length before each field keeps ("a", "bc") and ("ab", "c") apart.
            let Ok(length) = u32::try_from(field.len()) else { return false };
            self.bytes.extend_from_slice(&length.to_ne_bytes());
            self.bytes.extend_from_slice(field);
        }
        if self.bytes.len() > BYTES_MAX {
            self.bytes.truncate(start);
            return false;
        }
        let hash = self.hasher.hash_one(&self.bytes[start..]);
        let (bytes, ends) = (&self.bytes, &self.ends);
        let at = |index: u32| slice(bytes, ends, index as usize);
        if self.table.find(hash, |&index| at(index) == &bytes[start..]).is_some() {
            self.bytes.truncate(start);
            return true;
        }
        let (Ok(index), Ok(end)) = (u32::try_from(self.ends.len()), u32::try_from(self.bytes.len())) else { return false };
        self.ends.push(end);
        let (bytes, ends, hasher) = (&self.bytes, &self.ends, &self.hasher);
        self.table.insert_unique(hash, index, |&index| hasher.hash_one(slice(bytes, ends, index as usize)));
        true
    }

    /// Adds all keys of another set; false if the set is full.
    #[must_use]
    pub fn extend(&mut self, other: &Self) -> bool {
        (0..other.len()).all(|index| self.insert(&other.fields(index)))
    }

    /// The columns of key `index`.
    pub fn fields(&self, index: usize) -> Vec<&[u8]> {
        let mut rest = slice(&self.bytes, &self.ends, index);
        let mut fields = Vec::with_capacity(self.columns);
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let (field, tail) = tail.split_at(u32::from_ne_bytes(*length) as usize);
            fields.push(field);
            rest = tail;
        }
        fields
    }

    /// Keys `range` as one text array for each column, ready to bind as `text[]`.
    pub fn arrays(&self, range: std::ops::Range<usize>) -> Vec<Vec<TextRef<'_>>> {
        let mut arrays = vec![Vec::with_capacity(range.len()); self.columns];
        for index in range {
            for (array, field) in arrays.iter_mut().zip(self.fields(index)) {
                array.push(TextRef(field));
            }
        }
        arrays
    }
}

fn slice<'a>(bytes: &'a [u8], ends: &[u32], index: usize) -> &'a [u8] {
    let start = index.checked_sub(1).map_or(0, |previous| ends[previous] as usize);
    &bytes[start..ends[index] as usize]
}

#[cfg(test)]
mod tests {
    use super::{KeySet, TextRef};

    #[test]
    fn keys_are_kept_once_and_apart() {
        let mut set = KeySet::new(2);
        for key in [[b"a".as_slice(), b"bc"], [b"ab", b"c"], [b"a", b"bc"], [b"", b""]] {
            assert!(set.insert(&key));
        }
        assert_eq!(set.len(), 3);
        let texts = |texts: [&'static str; 3]| texts.map(|text| TextRef(text.as_bytes())).to_vec();
        assert_eq!(set.arrays(0..3), [texts(["a", "ab", ""]), texts(["bc", "c", ""])]);
    }

    #[test]
    fn many_keys() {
        let mut set = KeySet::new(1);
        for round in 0..2 {
            for n in 0..50_000 {
                assert!(set.insert(&[n.to_string().as_bytes()]), "round {round}");
            }
        }
        assert_eq!(set.len(), 50_000);
        let mut copy = KeySet::new(1);
        assert!(copy.extend(&set));
        assert_eq!(copy.arrays(49_999..50_000), [vec![TextRef(b"49999")]]);
    }
}
