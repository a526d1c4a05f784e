//! The metrics: their buckets and descriptions.

use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;

/// Buckets of durations, in seconds: from a fast batch to a long recomputation.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A gauge that nobody has set for so long is not shown.
const GAUGES_FOR: Duration = Duration::from_secs(15);

/// The migration plan's buckets, in milliseconds.
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

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_gauge!(
        "lockstep_staleness_seconds",
        Unit::Seconds,
        "How long ago the group's read models were last known to be current"
    );
    describe_histogram!(
        "lockstep_freshness_seconds",
        Unit::Seconds,
        "From a commit in the source to its visibility in the read model"
    );
    describe_gauge!("lockstep_lag_bytes", Unit::Bytes, "WAL written after the position that the group contains");
    describe_gauge!("lockstep_slot_retained_bytes", Unit::Bytes, "WAL that the slot keeps the source from recycling");
    describe_gauge!(
        "lockstep_slot_safe_bytes",
        Unit::Bytes,
        "WAL that may be written before the slot is in danger; -1 without a limit"
    );
    describe_gauge!("lockstep_dirty_keys", Unit::Count, "Dirty keys that wait");
    describe_counter!("lockstep_changes_total", Unit::Count, "Row changes received");
    describe_histogram!(
        "lockstep_refresh_duration_seconds",
        Unit::Seconds,
        "Time of the phases of a batch: fence, trace, merge, commit"
    );
    describe_counter!("lockstep_refresh_rows_total", Unit::Count, "Rows written, by operation");
    describe_counter!("lockstep_batches_total", Unit::Count, "Batches committed");
    describe_counter!("lockstep_errors_total", Unit::Count, "Errors, by class");
    describe_gauge!("lockstep_projection_state", Unit::Count, "1 for the projection's current state, 0 for the others");
    describe_gauge!("lockstep_projection_rows", Unit::Count, "Rows in the projection's table");
    describe_gauge!("lockstep_differing_rows", Unit::Count, "Rows that the last look found wrong and that are not repaired yet");
    describe_gauge!("lockstep_slot_active", Unit::Count, "1 while somebody streams from the slot");
    describe_counter!("lockstep_http_requests_total", Unit::Count, "Requests to the read API, by route and status");
    describe_histogram!("lockstep_http_request_duration_seconds", Unit::Seconds, "Time of requests to the read API");
    describe_counter!("lockstep_reads_total", Unit::Count, "Answers of the read API, by the source that they come from");
    describe_counter!("lockstep_read_fallbacks_total", Unit::Count, "Times another source had to be tried");
    describe_counter!("lockstep_read_errors_total", Unit::Count, "Times a source could not answer, by reason");
    describe_gauge!("lockstep_feed_subscribers", Unit::Count, "Clients that follow the changes of a projection");
    describe_counter!("lockstep_feed_events_total", Unit::Count, "Changes told to clients");
    describe_histogram!("product_search_query_duration_ms", Unit::Milliseconds, "Product search query duration in milliseconds");
    describe_histogram!(
        "product_search_mv_refresh_duration_ms",
        Unit::Milliseconds,
        "Materialized view refresh duration in milliseconds"
    );
    describe_gauge!("product_search_mv_staleness_seconds", Unit::Seconds, "Seconds since last MV refresh");
    describe_counter!("product_search_query_errors_total", Unit::Count, "Total number of product search query errors");
    describe_counter!("product_search_fallback_total", Unit::Count, "Number of times a fallback was used");
    describe_histogram!("item_search_latency_seconds", Unit::Seconds, "Time of searches for items");
    describe_gauge!("cache_hit_ratio", Unit::Count, "Share of answers that needed no rows from the database, lately");
    describe_gauge!("db_connection_usage", Unit::Count, "Share of the read API's sessions that are in use");
}
