//! What was measured: figures with their rounds, anchors and what was wanted; written as Markdown, JSON and pictures.

mod markdown;
mod picture;

use std::path::Path;

use serde::Serialize;

use crate::machine::Machine;
use crate::statistics::median;

pub(crate) use picture::{Picture, Series};

/// A scenario's outcome.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What was done, and what the anchor is.
    pub(crate) about: String,
    pub(crate) figures: Vec<Figure>,
    pub(crate) pictures: Vec<Picture>,
    pub(crate) seconds: f64,
}

/// One figure: the rounds of ours, and those of the anchor.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Vec<f64>,
    pub(crate) anchor: Option<Anchor>,
    pub(crate) wanted: Option<Wanted>,
}

/// What ours is held against.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Anchor {
    pub(crate) name: String,
    pub(crate) rounds: Vec<f64>,
}

/// What was wanted.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) enum Wanted {
    /// Ours is at most so many times the anchor.
    TimesAtMost(f64),
    /// Ours is at most so much.
    AtMost(f64),
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, ours: Vec<f64>) -> Self {
        Self { what: what.into(), unit, ours, anchor: None, wanted: None }
    }

    pub(crate) fn against(self, name: impl Into<String>, rounds: Vec<f64>) -> Self {
        Self { anchor: Some(Anchor { name: name.into(), rounds }), ..self }
    }

    pub(crate) fn wanted(self, wanted: Wanted) -> Self {
        Self { wanted: Some(wanted), ..self }
    }

    /// The medians' ratio.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.anchor.as_ref().map(|anchor| median(&self.ours) / median(&anchor.rounds))
    }

    /// Whether what was wanted was reached; nothing where nothing was.
    pub(crate) fn met(&self) -> Option<bool> {
        match self.wanted? {
            Wanted::TimesAtMost(times) => self.ratio().map(|ratio| ratio <= times),
            Wanted::AtMost(value) => Some(median(&self.ours) <= value),
        }
    }

    /// A line for those who watch.
    pub(crate) fn line(&self) -> String {
        let ours = format!("{} {} {}", self.what, number(median(&self.ours)), self.unit);
        let anchor = self.anchor.as_ref().map(|anchor| format!(", {} {}", anchor.name, number(median(&anchor.rounds))));
        let ratio = self.ratio().map(|ratio| format!(", ratio {ratio:.2}"));
        let met = self.met().map(|met| if met { ", as wanted" } else { ", not as wanted" });
        format!("{ours}{}{}{}", anchor.unwrap_or_default(), ratio.unwrap_or_default(), met.unwrap_or_default())
    }
}

/// All that is written.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) command: String,
    pub(crate) full: bool,
    pub(crate) rounds: usize,
    pub(crate) machine: Machine,
    pub(crate) sections: Vec<Section>,
}

impl Report {
    /// Writes everything below a folder.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let pictures = folder.join("benchmarks");
        std::fs::create_dir_all(&pictures)?;
        for picture in self.sections.iter().flat_map(|section| &section.pictures) {
            picture.draw(&pictures.join(&picture.file))?;
        }
        std::fs::write(folder.join("benchmarks.md"), markdown::write(self))?;
        std::fs::write(folder.join("benchmarks.json"), format!("{}\n", serde_json::to_string_pretty(self)?))?;
        Ok(())
    }
}

/// Three digits that mean something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "–".to_owned(),
        size if size >= 100.0 => thousands(value),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let places: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|three| std::str::from_utf8(three).unwrap_or_default()).collect();
    places.join(",")
}

#[cfg(test)]
mod tests {
    use super::{Figure, Wanted, number};

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.123, 1.5, 12.34, 345.6, 1_234_567.0].map(number), ["0.12", "1.50", "12.3", "346", "1,234,567"]);
    }

    #[test]
    fn medians_are_held_against_what_was_wanted() {
        let figure = Figure::new("p50", "ms", vec![3.0, 1.0, 2.0]).against("native", vec![1.0]);
        assert_eq!(figure.clone().wanted(Wanted::TimesAtMost(1.5)).met(), Some(false));
        assert_eq!(figure.clone().wanted(Wanted::AtMost(2.0)).met(), Some(true));
        assert_eq!(figure.met(), None);
    }
}
