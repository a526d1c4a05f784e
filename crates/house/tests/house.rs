//! The rules of the house: who may import whom, how large a file may be, and that what the documents name is there.

use lockstep_house::{Imports, circles, crates, dependencies, files, text};

/// The crates by floor. A crate depends on floors below its own.
const FLOORS: &[&[&str]] = &[
    &["plan", "connect", "cluster", "house"],
    &["wal"],
    &["capture", "read"],
    &["refresh"],
    &["backstop", "config"],
    &["observe", "preflight"],
    &["supervise", "serve"],
    &["lockstep"],
    &["testkit", "bench"],
];

/// The planner's stages, in order: each imports those before it.
const STAGES: &[&str] = &["model", "syntax", "normalise", "resolve", "strategy"];

/// Lines of a file.
const LINES_MAX: usize = 500;

/// What does input or output, by the names of crates and of the standard library's modules.
const INPUT_AND_OUTPUT: &[&str] =
    &["tokio", "tokio-postgres", "tokio-rustls", "hyper", "axum", "sqlx", "nix", "lockstep-connect", "lockstep-wal"];
const STANDARD_INPUT_AND_OUTPUT: &[&str] =
    &["std::fs", "std::net", "std::process", "std::io", "std::time::SystemTime", "tokio::"];

/// What only some crates may build upon.
const BELONGS_TO: &[(&str, &[&str])] = &[
    ("axum", &["serve"]),
    ("hyper", &["serve"]),
    ("tower-http", &["serve"]),
    ("sqlx", &["supervise"]),
    ("clap", &["lockstep", "bench"]),
    ("pg_query", &["plan"]),
    ("rustls", &["connect"]),
    ("croner", &["config", "supervise"]),
];

fn told(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn crates_depend_on_floors_below() -> anyhow::Result<()> {
    let floor = |name: &str| FLOORS.iter().position(|floor| floor.contains(&name));
    let mut broken = Vec::new();
    for name in crates()? {
        let Some(own) = floor(&name) else {
            broken.push(format!("crates/{name} has no floor"));
            continue;
        };
        for dependency in dependencies(&name)? {
            let Some(other) = dependency.strip_prefix("lockstep-") else { continue };
            if floor(other).is_none_or(|other| other >= own) {
                broken.push(format!("crates/{name} depends on crates/{other}"));
            }
        }
    }
    told(&broken, "a crate depends on crates of floors below its own");
    Ok(())
}

#[test]
fn libraries_stay_where_they_belong() -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for name in crates()? {
        let used = dependencies(&name)?;
        let strange =
            BELONGS_TO.iter().filter(|(library, of)| used.iter().any(|used| used == library) && !of.contains(&name.as_str()));
        broken.extend(
            strange.map(|(library, of)| format!("crates/{name} depends on {library}, which belongs to {}", of.join(", "))),
        );
    }
    for (library, of) in BELONGS_TO {
        for name in *of {
            if !dependencies(name)?.iter().any(|used| used == library) {
                broken.push(format!("crates/{name} does not need {library}: take it off the list"));
            }
        }
    }
    told(&broken, "a library that is one crate's affair is not used by others");
    Ok(())
}

#[test]
fn no_files_import_each_other() -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for name in crates()? {
        let found = circles(&Imports::read(&name)?.of);
        broken.extend(found.iter().map(|circle| format!("crates/{name}/src: {}", circle.join(", "))));
    }
    told(&broken, "files that import each other are one, or a third holds what they share");
    Ok(())
}

#[test]
fn the_planner_s_stages_import_those_before_them() -> anyhow::Result<()> {
    // The planner's own tests are of all stages.
    let stage = |file: &str| file.split_once('/').map(|(folder, _)| folder.to_owned()).filter(|folder| folder != "tests");
    let place = |folder: &str| STAGES.iter().position(|stage| *stage == folder);
    let imports = Imports::read("plan")?;
    let mut broken = Vec::new();
    let mut seen = 0;
    for (file, targets) in &imports.of {
        let Some(from) = stage(file) else { continue };
        for target in targets {
            let Some(to) = stage(target) else { continue };
            seen += 1;
            let allowed = match (place(&from), place(&to)) {
                (Some(from), Some(to)) => to <= from,
                (None, _) if from == "emit" => to == "emit" || to == "model",
                (_, _) => false,
            };
            if !allowed {
                broken.push(format!("{file} imports {target}"));
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
    told(&broken, &format!("{} in this order; emit imports the model alone", STAGES.join(", ")));
    Ok(())
}

#[test]
fn the_planner_and_the_decoder_do_no_input_or_output() -> anyhow::Result<()> {
    let mut broken: Vec<String> = dependencies("plan")?
        .into_iter()
        .filter(|dependency| INPUT_AND_OUTPUT.contains(&dependency.as_str()))
        .map(|dependency| format!("crates/plan depends on {dependency}"))
        .collect();
    for file in files("crates/plan/src", &["rs"])?.into_iter().chain(files("crates/wal/src/pgoutput", &["rs"])?) {
        let text = text(&file)?;
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (name, line) in STANDARD_INPUT_AND_OUTPUT.iter().flat_map(|name| code.clone().map(move |line| (name, line))) {
            if line.contains(name) {
                broken.push(format!("{file}: {}", line.trim()));
            }
        }
    }
    told(&broken, "crates/plan and the decoder are pure");
    Ok(())
}

#[test]
fn no_file_is_too_long() -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for file in files("crates", &["rs"])?.into_iter().chain(files("tests", &["rs"])?) {
        let lines = text(&file)?.lines().count();
        if lines > LINES_MAX {
            broken.push(format!("{file}: {lines} lines"));
        }
    }
    told(&broken, &format!("a file has at most {LINES_MAX} lines"));
    Ok(())
}

/// The words of a document that name a file of the repository.
fn paths_named(document: &str) -> impl Iterator<Item = &str> {
    let words = document.split(|c: char| c.is_whitespace() || "`()[]|,;\"'".contains(c));
    let starts = ["crates/", "tests/", "migrations/", "docs/", "deploy/", "config/", "scripts/", "docker/"];
    let words = words.filter(move |word| starts.iter().any(|start| word.starts_with(start)));
    // `deploy/lockstep` is what kubectl calls a deployment.
    words.map(|word| word.trim_end_matches(['.', ':'])).filter(|word| word.contains('.') || word.starts_with("crates/"))
}

#[test]
fn what_documents_name_is_there() -> anyhow::Result<()> {
    let documents = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(str::to_owned);
    let mut broken = Vec::new();
    let mut seen = 0;
    for document in documents.into_iter().chain(files("docs", &["md"])?) {
        let text = text(&document)?;
        for path in paths_named(&text).filter(|path| !path.contains(['*', '<', '{', '…'])) {
            seen += 1;
            let path = path.split('#').next().unwrap_or(path);
            if !lockstep_house::root().join(path).exists() {
                broken.push(format!("{document} names {path}"));
            }
        }
    }
    assert!(seen > 50, "only {seen} paths were found");
    told(&broken, "a document names what is there");
    Ok(())
}
