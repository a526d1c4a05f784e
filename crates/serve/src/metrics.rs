//! The metrics: their buckets and descriptions.

use std::time::Duration;

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;

/// Buckets of durations, in seconds: from a fast batch to a long recomputation.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A gauge that nobody has set for so long is not shown.
const GAUGES_FOR: Duration = Duration::from_secs(15);

/// Buckets of the product endpoints' own metrics, in milliseconds.
const QUERY_MILLISECONDS: &[f64] = &[10.0, 25.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0];

/// The same for refreshes of its view.
const REFRESH_MILLISECONDS: &[f64] = &[1000.0, 5000.0, 10000.0, 30000.0, 60000.0];

/// Installs the metrics recorder. In one process only the first call installs; later ones (tests) get their own, unused.
pub fn start_metrics() -> PrometheusHandle {
    let buckets = [
        (Matcher::Suffix("_seconds".to_owned()), SECONDS),
        (Matcher::Full("product_search_query_duration_ms".to_owned()), QUERY_MILLISECONDS),
        (Matcher::Full("product_search_mv_refresh_duration_ms".to_owned()), REFRESH_MILLISECONDS),
    ];
    let builder = buckets.into_iter().fold(PrometheusBuilder::new(), |builder, (matcher, values)| {
        builder.set_buckets_for_metric(matcher, values).unwrap_or_else(|_| PrometheusBuilder::new())
    });
    // What is no longer told is no longer true: of an instance that has lost its place, or of a view that is gone.
    let recorder = builder.idle_timeout(MetricKindMask::GAUGE, Some(GAUGES_FOR)).build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::debug!("a metrics recorder is installed already");
    }
    describe();
    // A counter that is not there until the first error cannot be alerted on.
    for class in ["transient", "definite", "unique_clash", "trace", "fatal"] {
        metrics::counter!("lockstep_errors_total", "class" => class).increment(0);
    }
    metrics::counter!("product_search_fallback_total").increment(0);
    metrics::counter!("product_search_query_errors_total", "source" => "view", "error_type" => "refresh_failed").increment(0);
    handle
}

/// A metric's name, its unit, and what it means.
type Described = (&'static str, Unit, &'static str);

const GAUGES: &[Described] = &[
    ("lockstep_staleness_seconds", Unit::Seconds, "How long ago the group's read models were last known to be current"),
    ("lockstep_lag_bytes", Unit::Bytes, "WAL written after the position that the group contains"),
    ("lockstep_slot_retained_bytes", Unit::Bytes, "WAL that the slot keeps the source from recycling"),
    ("lockstep_slot_safe_bytes", Unit::Bytes, "WAL that may be written before the slot is in danger; -1 without a limit"),
    ("lockstep_dirty_keys", Unit::Count, "Dirty keys that wait"),
    ("lockstep_projection_state", Unit::Count, "1 for the projection's current state, 0 for the others"),
    ("lockstep_projection_rows", Unit::Count, "Rows in the projection's table"),
    ("lockstep_differing_rows", Unit::Count, "Rows that the last look found wrong and that are not repaired yet"),
    ("lockstep_slot_active", Unit::Count, "1 while somebody streams from the slot"),
    ("lockstep_feed_subscribers", Unit::Count, "Clients that follow the changes of a projection"),
    ("product_search_mv_staleness_seconds", Unit::Seconds, "Seconds since last MV refresh"),
    ("cache_hit_ratio", Unit::Count, "Share of answers that needed no rows from the database, lately"),
    ("db_connection_usage", Unit::Count, "Share of the read API's sessions that are in use"),
    ("lockstep_stalled", Unit::Count, "1 while nothing flows"),
    ("lockstep_stands_aside", Unit::Count, "1 while the stream reports no position, because commits would wait for it"),
    ("lockstep_quarantined_keys", Unit::Count, "Keys that fail and are set aside"),
    ("lockstep_last_verification_timestamp_seconds", Unit::Seconds, "When the last verification ended"),
    ("lockstep_mv_staleness_seconds", Unit::Seconds, "How long ago the last good refresh of a materialized view began"),
    ("lockstep_mv_success_ratio", Unit::Count, "Share of good refreshes of a materialized view in a day"),
    (
        "lockstep_feed_notices_withheld",
        Unit::Count,
        "1 while listeners are not notified, because PostgreSQL's queue is half full",
    ),
];

const COUNTERS: &[Described] = &[
    ("lockstep_changes_total", Unit::Count, "Row changes received"),
    ("lockstep_refresh_rows_total", Unit::Count, "Rows written, by operation"),
    ("lockstep_batches_total", Unit::Count, "Batches committed"),
    (
        "lockstep_fences_total",
        Unit::Count,
        "Snapshots whose transactions had all been delivered, by what showed it: each transaction, or the WAL position",
    ),
    ("lockstep_errors_total", Unit::Count, "Errors, by class"),
    ("lockstep_http_requests_total", Unit::Count, "Requests to the read API, by route and status"),
    ("lockstep_reads_total", Unit::Count, "Answers of the read API, by the source that they come from"),
    ("lockstep_read_fallbacks_total", Unit::Count, "Times another source had to be tried"),
    ("lockstep_read_errors_total", Unit::Count, "Times a source could not answer, by reason"),
    ("lockstep_feed_events_total", Unit::Count, "Changes told to clients"),
    ("product_search_query_errors_total", Unit::Count, "Total number of product search query errors"),
    ("product_search_fallback_total", Unit::Count, "Number of times a fallback was used"),
    ("lockstep_gave_way_total", Unit::Count, "Times that something was let go because the application's DDL waited for it"),
    ("lockstep_drift_rows_total", Unit::Count, "Rows found wrong although no change explains it, each once"),
    ("lockstep_repaired_rows_total", Unit::Count, "Rows that repairs changed"),
    ("lockstep_verifications_total", Unit::Count, "Verifications, by outcome"),
    ("lockstep_verified_rows_total", Unit::Count, "Rows that verifications compared"),
    ("lockstep_mv_refresh_total", Unit::Count, "Refreshes of materialized views, by outcome"),
    ("lockstep_warm_requests_total", Unit::Count, "Requests that keep pages in memory, by outcome"),
];

const HISTOGRAMS: &[Described] = &[
    ("lockstep_freshness_seconds", Unit::Seconds, "From a commit in the source to its visibility in the read model"),
    ("lockstep_refresh_duration_seconds", Unit::Seconds, "Time of the phases of a batch: fence, trace, merge, commit"),
    ("lockstep_http_request_duration_seconds", Unit::Seconds, "Time of requests to the read API"),
    ("product_search_query_duration_ms", Unit::Milliseconds, "Product search query duration in milliseconds"),
    ("product_search_mv_refresh_duration_ms", Unit::Milliseconds, "Materialized view refresh duration in milliseconds"),
    ("item_search_latency_seconds", Unit::Seconds, "Time of searches for items"),
    ("lockstep_mv_refresh_duration_seconds", Unit::Seconds, "Time of refreshes of materialized views"),
];

fn describe() {
    for &(name, unit, meaning) in GAUGES {
        metrics::describe_gauge!(name, unit, meaning);
    }
    for &(name, unit, meaning) in COUNTERS {
        metrics::describe_counter!(name, unit, meaning);
    }
    for &(name, unit, meaning) in HISTOGRAMS {
        metrics::describe_histogram!(name, unit, meaning);
    }
}
