//! What reading tells the metrics, under our own names and those of the systems that are served.

use std::time::Duration;

use crate::answer::Answer;
use crate::error::SourceFault;
use crate::settings::{Model, Source};

pub(crate) fn answer(model: &Model, answer: &Answer) {
    let source = answer.source.map_or("none", Source::name);
    let labels = [("projection", model.name.clone()), ("source", source.to_owned())];
    metrics::counter!("lockstep_reads_total", &labels).increment(1);
}

pub(crate) fn query(model: &Model, source: Source, took: Duration) {
    if model.is_products {
        metrics::histogram!("product_search_query_duration_ms", "source" => source.name()).record(took.as_secs_f64() * 1000.0);
    }
    if model.is_items {
        metrics::histogram!("item_search_latency_seconds").record(took.as_secs_f64());
    }
}

pub(crate) fn fault(model: &Model, source: Source, fault: SourceFault) {
    tracing::warn!(projection = model.name, source = source.name(), fault = fault.label(), "a source cannot answer");
    let labels =
        [("projection", model.name.clone()), ("source", source.name().to_owned()), ("error_type", fault.label().to_owned())];
    metrics::counter!("lockstep_read_errors_total", &labels).increment(1);
    if model.is_products {
        let labels = [("source", source.name().to_owned()), ("error_type", fault.label().to_owned())];
        metrics::counter!("product_search_query_errors_total", &labels).increment(1);
    }
}
