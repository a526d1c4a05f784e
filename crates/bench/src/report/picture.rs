//! Lines over a quantity, as SVG.

use std::path::Path;

use plotters::prelude::*;
use serde::Serialize;

const SIZE: (u32, u32) = (720, 400);

/// Told apart without telling red from green.
const COLOURS: [RGBColor; 4] = [RGBColor(0, 114, 178), RGBColor(230, 159, 0), RGBColor(86, 180, 233), RGBColor(120, 120, 120)];

/// A picture.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Picture {
    /// Its file's name.
    pub(crate) file: String,
    pub(crate) title: String,
    /// What is to the right, and what is upwards.
    pub(crate) axes: (String, String),
    pub(crate) series: Vec<Series>,
}

/// A line.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Picture {
    /// Draws it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn draw(&self, path: &Path) -> anyhow::Result<()> {
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let points = || self.series.iter().flat_map(|series| &series.points);
        let right = points().map(|point| point.0).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let top = points().map(|point| point.1).fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.1;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..right * 1.02, 0.0..top)?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .bold_line_style(RGBColor(225, 225, 225))
            .x_desc(&self.axes.0)
            .y_desc(&self.axes.1)
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .label_style(("sans-serif", 15))
            .axis_desc_style(("sans-serif", 15))
            .draw()?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let line = LineSeries::new(series.points.iter().copied(), colour.stroke_width(2)).point_size(3);
            chart
                .draw_series(line)?
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        let mut labels = chart.configure_series_labels();
        let position = if self.falls() { SeriesLabelPosition::UpperRight } else { SeriesLabelPosition::UpperLeft };
        labels.position(position).background_style(WHITE.mix(0.8)).label_font(("sans-serif", 15)).draw()?;
        area.present()?;
        Ok(())
    }

    /// Whether its lines go down: then there is room to the right.
    fn falls(&self) -> bool {
        let points = self.series.first().map(|series| series.points.as_slice()).unwrap_or_default();
        matches!((points.first(), points.last()), (Some(first), Some(last)) if last.1 < first.1)
    }
}

/// Without zeros that say nothing.
fn short(value: f64) -> String {
    format!("{}", (value * 1000.0).round() / 1000.0)
}
