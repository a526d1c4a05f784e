//! A source whose history is older than what has been followed already.

use lockstep_wal::Lsn;

use super::place::Installation;

/// Why a source is not followed, if it is of the same cluster as before and behind it: an old primary that was not rebuilt after a
/// failover, or a server that was restored from a backup without a new timeline. One that was restored to a point in time, or promoted,
/// is on a higher timeline, and is followed and compared.
pub fn behind(installation: &Installation, system: &str, timeline: u32, flushed: Lsn) -> Option<String> {
    if installation.source_system != system {
        return None;
    }
    let known = installation.source_timeline?;
    let timeline = i64::from(timeline);
    if timeline < known {
        return Some(format!(
            "it is on timeline {timeline} of cluster {system}, and timeline {known} has been followed already: an old primary"
        ));
    }
    let furthest = installation.furthest.filter(|furthest| timeline == known && flushed < *furthest)?;
    Some(format!(
        "it is at {flushed} of timeline {timeline}, and {furthest} has been followed already: it was restored from a backup, or has lost WAL"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation(timeline: Option<i64>, furthest: Option<u64>) -> Installation {
        Installation {
            id: String::new(),
            slot: String::new(),
            epoch: 1,
            source_system: "1".to_owned(),
            source_timeline: timeline,
            furthest: furthest.map(Lsn),
            place: None,
        }
    }

    #[test]
    fn only_what_is_behind_in_the_same_cluster_is_refused() {
        let known = installation(Some(3), Some(100));
        assert!(behind(&known, "1", 2, Lsn(500)).unwrap().contains("timeline 2"));
        assert!(behind(&known, "1", 3, Lsn(99)).unwrap().contains("0/63"));
        assert_eq!(behind(&known, "1", 3, Lsn(100)), None);
        assert_eq!(behind(&known, "1", 4, Lsn(50)), None, "a failover, or a point in time");
        assert_eq!(behind(&known, "2", 1, Lsn(1)), None, "another cluster");
        assert_eq!(behind(&installation(None, Some(100)), "1", 1, Lsn(1)), None, "an earlier version did not note it");
        assert_eq!(behind(&installation(Some(3), None), "1", 3, Lsn(1)), None);
    }
}
