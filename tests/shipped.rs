//! The shipped projections over the sample schema, and the documents that go with them.

use std::path::Path;

use lockstep_config::Config;
use lockstep_refresh::RefreshOptions;
use lockstep_testkit::{cluster, connect};

use crate::harness::{Projector, Setup, assert_equal};
use crate::locks::{Locks, stored};

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The example configuration as projections of a setup, without what depends on the time.
fn shipped(url: &str) -> anyhow::Result<Setup> {
    let path = root().join("config/lockstep.example.toml");
    let config = Config::load(&path).map_err(|diagnostic| anyhow::anyhow!(diagnostic.render(false)))?;
    let mut setup = Setup::new(url, &[]);
    let own = config.projections.iter().filter(|projection| projection.cube_of.is_none());
    for projection in own.filter(|projection| projection.name != "inventory_health") {
        let facets = (!projection.facets.is_empty()).then(|| format!("facets = {:?}\n", projection.facets));
        let key = projection.key.as_ref().map(|key| format!("key = {key:?}\n")).unwrap_or_default();
        let indexes = projection.indexes.is_some().then(|| {
            format!("indexes = \"{}\"\n", root().join(format!("config/projections/{}.indexes.sql", projection.name)).display())
        });
        setup.projections.push((
            projection.name.clone(),
            projection.sql.clone(),
            key + &indexes.unwrap_or_default() + &facets.unwrap_or_default(),
        ));
    }
    Ok(setup)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_projections_follow_the_sample_schema() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let setup = shipped(&cluster.url("postgres"))?;
    let session = connect(&setup.source_url).await?;
    session.batch_execute(&std::fs::read_to_string(root().join("config/sample/schema.sql"))?).await?;
    let data = std::fs::read_to_string(root().join("config/sample/data.sql"))?;
    session.batch_execute(&format!("SET lockstep.products = 800; {data}")).await?;
    let before = stored(&session, "public, catalog, sales, inventory, platform, financial").await?;
    let locks = std::sync::Arc::new(Locks::default());
    let mut projector = Projector::start(&setup, Some(locks.clone()), RefreshOptions::default()).await?;
    projector.is_equal(&setup).await?;
    assert_eq!(
        stored(&session, "public, catalog, sales, inventory, platform, financial").await?,
        before,
        "a row was locked or written"
    );
    let indexes: i64 =
        session.query_one("SELECT count(*) FROM pg_indexes WHERE schemaname = 'read_model' AND tablename = 'product_search' AND indexname LIKE 'idx_%'", &[]).await?.get(0);
    assert_eq!(indexes, 17);
    for change in [
        "UPDATE custom_posts SET \"customFields\" = jsonb_set(\"customFields\", '{inventory}', '0') WHERE slug = 'item-7'",
        "UPDATE custom_posts SET status = 'draft' WHERE slug LIKE 'item-1%'",
        "UPDATE custom_post_types SET slug = 'article' WHERE slug = 'product'",
        "UPDATE custom_post_types SET slug = CASE slug WHEN 'page' THEN 'product' ELSE 'page' END",
        "UPDATE catalog.brand SET name = name || '!' WHERE name LIKE 'Brand 1%'",
        "UPDATE catalog.product SET brand_id = NULL WHERE sku LIKE 'P-1%'",
        "UPDATE sales.\"order\" SET status = 'returned' WHERE external_id LIKE 'EXT-3%'",
        "DELETE FROM sales.\"order\" WHERE external_id LIKE 'EXT-4%'",
        "UPDATE sales.\"order\" SET inventory_item_id = NULL WHERE external_id LIKE 'EXT-5%'",
        "UPDATE inventory.stock SET product_id = (SELECT id FROM catalog.product ORDER BY sku LIMIT 1) WHERE quantity = 3",
        "UPDATE platform.marketplace SET name = 'Renamed' WHERE name = 'eBay'",
        "UPDATE inventory.stock_financial SET sale_price = 1 WHERE sale_price > 100; DELETE FROM inventory.stock_reservation",
        "INSERT INTO financial.transaction (external_id, amount) VALUES ('EXT-6', 1), ('NEW-1', 2), (NULL, 3)",
        "UPDATE sales.\"order\" SET external_id = 'NEW-1' WHERE external_id = 'EXT-6'",
        "UPDATE items SET created_at = now() - interval '40 days' WHERE id % 3 = 0; UPDATE items SET geohash = 'u33dc0xyz' WHERE id % 4 = 0",
        "UPDATE sales.\"order\" SET sold_at = sold_at - interval '1 month' WHERE external_id LIKE 'EXT-7%'",
    ] {
        session.batch_execute(change).await?;
        projector.catch_up().await?;
        assert_equal(&setup).await.map_err(|error| error.context(change))?;
    }
    projector.stop().await?;
    locks.none_beyond_reading()
}

/// Every path that a document names exists.
#[test]
fn documents_name_what_exists() -> anyhow::Result<()> {
    let mut named = 0;
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = std::fs::read_to_string(root().join(document))?;
        for word in text.split(|c: char| c.is_whitespace() || "`()|,\"".contains(c)) {
            let word = word.trim_end_matches(['.', ':', ';']);
            let is_path = ["crates/", "config/", "migrations/", "docker/", "tests/", "scripts/", "docs/"]
                .iter()
                .any(|top| word.starts_with(top));
            if is_path && !word.contains('*') {
                let (path, heading) = word.split_once('#').map_or((word, None), |(path, heading)| (path, Some(heading)));
                anyhow::ensure!(root().join(path).exists(), "{document} names {path}, which does not exist");
                if let Some(heading) = heading {
                    let headings = headings(&std::fs::read_to_string(root().join(path))?);
                    anyhow::ensure!(
                        headings.iter().any(|found| found == heading),
                        "{document} names {word}: there are {headings:?}"
                    );
                }
                named += 1;
            }
        }
    }
    assert!(named > 10, "only {named} paths were found");
    Ok(())
}

/// A document's headings as links name them.
fn headings(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix('#'));
    lines.map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-")).collect()
}

/// Every metric that is told is described.
#[test]
fn every_metric_that_is_told_is_described() -> anyhow::Result<()> {
    let described = std::fs::read_to_string(root().join("crates/serve/src/metrics.rs"))?;
    let mut told = 0;
    for entry in walkdir::WalkDir::new(root().join("crates")) {
        let path = entry?.into_path();
        if path.extension().is_none_or(|extension| extension != "rs")
            || path.components().any(|part| part.as_os_str() == "target")
        {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        for kind in ["gauge!(", "counter!(", "histogram!("] {
            for call in text.split(&format!("metrics::{kind}")).skip(1) {
                let Some(name) = call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) else { continue };
                told += 1;
                assert!(described.contains(&format!("\"{name}\"")), "{} tells {name}, which is not described", path.display());
            }
        }
    }
    assert!(told > 40, "only {told} were found");
    Ok(())
}

/// Every metric that the README lists is described by the program, and the other way round.
#[test]
fn the_readme_lists_the_metrics() -> anyhow::Result<()> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let described = std::fs::read_to_string(root().join("crates/serve/src/metrics.rs"))?;
    let described: Vec<&str> = described.split('"').filter(|part| part.starts_with("lockstep_") && !part.contains('=')).collect();
    assert!(described.len() >= 12, "{described:?}");
    for metric in described {
        assert!(readme.contains(metric), "README.md does not list {metric}");
    }
    Ok(())
}
