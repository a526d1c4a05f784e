//! What a dirty set keeps, gives and confirms.

use super::*;

const ORDERS: u32 = 1;

fn set() -> DirtySet {
    let mut set = DirtySet::new(vec![Interest { oid: ORDERS, keys_wanted: true }], 3);
    set.recorded(Lsn(10_000));
    set
}

fn keys(keys: &[&str]) -> DirtyRelations {
    let mut set = KeySet::new(1);
    for key in keys {
        assert!(set.insert(&[key.as_bytes()]));
    }
    HashMap::from([(ORDERS, DirtyKeys::Keys(set))])
}

fn commit() -> Commit {
    Commit { commit_time: 0, received_at: Instant::now() }
}

#[test]
fn an_invisible_transaction_stays_and_holds_the_slot() {
    let mut dirty = set();
    dirty.add(10, Lsn(100), commit(), &keys(&["a"]));
    dirty.add(11, Lsn(200), commit(), &keys(&["b"]));
    let batch = dirty.take(&"10:12:10".parse().unwrap());
    assert_eq!((batch.keys(), batch.oldest_commit_lsn), (1, Some(Lsn(200))));
    assert_eq!(dirty.confirmable(Lsn(300)), Lsn(100));
    dirty.done();
    let batch = dirty.take(&"12:12:".parse().unwrap());
    assert_eq!(batch.keys(), 1);
    assert_eq!(dirty.confirmable(Lsn(300)), Lsn(100), "a batch in work holds the slot");
    dirty.done();
    assert_eq!(dirty.confirmable(Lsn(300)), Lsn(300));
}

#[test]
fn the_slot_is_confirmed_no_further_than_what_is_recorded() {
    let mut dirty = DirtySet::new(Vec::new(), 3);
    assert_eq!(dirty.confirmable(Lsn(300)), Lsn::ZERO);
    dirty.record_until_durable(Lsn(200), Lsn(900));
    assert_eq!((dirty.awaits_flush_of(), dirty.confirmable(Lsn(300))), (Some(Lsn(900)), Lsn::ZERO));
    dirty.flushed(Lsn(900));
    assert_eq!((dirty.awaits_flush_of(), dirty.confirmable(Lsn(300))), (None, Lsn(200)));
    assert_eq!(dirty.confirmable(Lsn(100)), Lsn(100));
}

#[test]
fn a_failed_batch_is_given_back() {
    let mut dirty = set();
    dirty.add(1, Lsn(100), commit(), &keys(&["a"]));
    let batch = dirty.take(&"5:5:".parse().unwrap());
    assert!(dirty.is_empty());
    dirty.give_back(batch);
    assert_eq!(dirty.confirmable(Lsn(300)), Lsn(100));
    assert_eq!(dirty.take(&"5:5:".parse().unwrap()).keys(), 1);
}

#[test]
fn a_relation_that_overflows_collapses() {
    let mut dirty = set();
    dirty.add(1, Lsn(1), commit(), &keys(&["a", "b"]));
    dirty.add(2, Lsn(2), commit(), &keys(&["c", "d"]));
    let batch = dirty.take(&"5:5:".parse().unwrap());
    assert!(matches!(batch.relations[&ORDERS], DirtyKeys::Whole));
}

#[test]
fn a_backlog_is_merged_and_still_waits_for_every_transaction() {
    let mut dirty = DirtySet::new(vec![Interest { oid: ORDERS, keys_wanted: true }], 10);
    for xid in 0..20_000_u32 {
        dirty.add(100 + xid, Lsn(u64::from(1_000 + xid)), commit(), &keys(&[&xid.to_string()]));
        assert!(dirty.pending.len() <= BLOCKS_MAX);
    }
    // One transaction in the middle is not visible yet: its block stays, and holds the slot.
    let batch = dirty.take(&"10100:99999:10100".parse().unwrap());
    assert!(matches!(batch.relations[&ORDERS], DirtyKeys::Whole));
    let held = dirty.oldest_waiting_lsn().unwrap();
    assert!(held <= Lsn(11_000) && held > Lsn(10_900), "{held}");
    dirty.done();
    assert_eq!(dirty.take(&"99999:99999:".parse().unwrap()).transactions + batch.transactions, 20_000);
}

#[test]
fn what_waits_is_inherited() {
    let (mut old, mut new) = (set(), set());
    old.add(1, Lsn(100), commit(), &keys(&["a"]));
    old.add(2, Lsn(200), commit(), &keys(&["b"]));
    let batch = old.take(&"2:2:".parse().unwrap());
    old.give_back(batch);
    new.add(3, Lsn(150), commit(), &keys(&["c"]));
    new.inherit(&old);
    assert_eq!(new.confirmable(Lsn(300)), Lsn(100));
    let batch = new.take(&"9:9:".parse().unwrap());
    assert_eq!((batch.keys(), batch.transactions), (3, 3));
}

#[test]
fn long_keys_count_for_several() {
    let mut dirty = set();
    let long = |n: u32| format!("{n}{}", "x".repeat(400));
    dirty.add(1, Lsn(1), commit(), &keys(&["a", &long(1)]));
    let batch = dirty.take(&"5:5:".parse().unwrap());
    assert_eq!(batch.keys(), 2);
    dirty.give_back(batch);
    dirty.add(2, Lsn(2), commit(), &keys(&[&"x".repeat(1_000)]));
    assert!(matches!(dirty.take(&"5:5:".parse().unwrap()).relations[&ORDERS], DirtyKeys::Whole));
    // In transactions of which no snapshot sees one yet.
    let bytes = |dirty: &DirtySet| dirty.pending.iter().map(|one| one.relations[&ORDERS].weight()).sum::<usize>();
    for n in 0..100 {
        dirty.add(10 + n, Lsn(u64::from(n)), commit(), &keys(&[&long(n)]));
        assert!(bytes(&dirty) <= 3 * WAITING_MAX);
    }
    assert_eq!(dirty.pending.len(), 100);
}

#[test]
fn too_many_ids_become_a_range() {
    let all = |from: u32, to: u32| Visibility::All((from..to).collect());
    let merged = all(5, 50_000).merge(all(50_000, 90_000));
    assert!(matches!(merged, Visibility::UpTo(89_999)));
    assert!(!merged.holds(&"60000:99999:60000".parse().unwrap()));
    assert!(merged.holds(&"90000:99999:".parse().unwrap()));
}

#[test]
fn a_full_list_of_batches_to_be_flushed_keeps_the_oldest_position() {
    let mut dirty = set();
    for xid in 0..100_u32 {
        // The last one has the oldest commit: it was invisible for long.
        let commit_lsn = if xid == 99 { Lsn(10) } else { Lsn(u64::from(100 + xid)) };
        dirty.add(xid, commit_lsn, commit(), &keys(&["a"]));
        let _batch = dirty.take(&"500:500:".parse().unwrap());
        dirty.done_until_durable(Lsn(u64::from(1_000 + xid)));
    }
    dirty.flushed(Lsn(1_062));
    assert_eq!(dirty.confirmable(Lsn(5_000)), Lsn(10));
}

#[test]
fn an_asynchronous_commit_holds_the_slot_until_it_is_flushed() {
    let mut dirty = set();
    dirty.add(1, Lsn(100), commit(), &keys(&["a"]));
    let _batch = dirty.take(&"5:5:".parse().unwrap());
    dirty.done_until_durable(Lsn(900));
    assert_eq!(dirty.confirmable(Lsn(300)), Lsn(100));
    dirty.flushed(Lsn(899));
    assert_eq!(dirty.confirmable(Lsn(300)), Lsn(100));
    dirty.flushed(Lsn(900));
    assert_eq!(dirty.confirmable(Lsn(300)), Lsn(300));
}
