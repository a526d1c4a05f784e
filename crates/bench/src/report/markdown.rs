//! The report as a document.

use super::{Figure, Report, Section, Wanted, number};
use crate::statistics::median;

pub(super) fn write(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "# Benchmarks\n\n\
         Written by `{}`; not by hand. Each scenario measures the release program and its anchor in turn, {} rounds each (half as many where a round is long), on private \
         clusters whose commits are flushed, and shows medians (least to greatest). After each, Lockstep's tables were compared with \
         their defining queries, both ways: all were equal, or this document would not have been written.\n\n\
         Commit to visible is the difference of two commit times, that of the row's transaction in the source and that of its \
         transaction in the target, each commit changing another row; the first second of every window has no weight. A commit's \
         time is taken before it is flushed, so a flush of the source is part of it, on both sides.\n\n",
        report.command, report.rounds
    );
    text.push_str(&format!(
        "| machine | |\n| --- | --- |\n| processor | {}, {} cores |\n| memory | {:.0} GiB |\n| kernel | {} |\n| load before | {} |\n\
         | PostgreSQL | {} |\n| program | {} |\n| a commit of one row | {} ms; not flushed {} ms |\n| sizes | {} |\n\n",
        machine.processor,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.load_before,
        machine.postgresql,
        machine.program,
        number(machine.commit_ms),
        number(machine.commit_without_flush_ms),
        if report.full { "full" } else { "quick" }
    ));
    report.sections.iter().for_each(|found| section(&mut text, found));
    text
}

fn section(text: &mut String, section: &Section) {
    text.push_str(&format!("## {}\n\n{}\n\n", section.title, section.about));
    text.push_str("| | Lockstep | anchor | | ratio | wanted |\n| --- | --- | --- | --- | --- | --- |\n");
    section.figures.iter().for_each(|figure| text.push_str(&row(figure)));
    text.push('\n');
    for picture in &section.pictures {
        text.push_str(&format!("![{}](benchmarks/{})\n\n", picture.title, picture.file));
    }
}

fn row(figure: &Figure) -> String {
    let (anchor, name) = match &figure.anchor {
        Some(anchor) => (rounds(&anchor.rounds), anchor.name.as_str()),
        None => (String::new(), ""),
    };
    let ratio = figure.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
    let wanted = match (figure.wanted, figure.met()) {
        (Some(wanted), Some(met)) => {
            let told = match wanted {
                Wanted::TimesAtMost(times) => format!("ratio ≤ {times}"),
                Wanted::AtMost(value) => format!("≤ {value} {}", figure.unit),
            };
            format!("{told}: {}", if met { "yes" } else { "**no**" })
        }
        _ => String::new(),
    };
    format!("| {}, {} | {} | {anchor} | {name} | {ratio} | {wanted} |\n", figure.what, figure.unit, rounds(&figure.ours))
}

/// The median, and between what the rounds were.
fn rounds(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.len() < 2 {
        return number(median(values));
    }
    format!("{} ({}–{})", number(median(values)), number(least), number(greatest))
}
