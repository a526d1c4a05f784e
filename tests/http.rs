//! A client of HTTP and of server-sent events, and what a shop has.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::PATIENCE;

/// The shipped projection, as the documentation has it.
pub(crate) const PRODUCT_SEARCH: &str = include_str!("../config/projections/product_search.sql");
pub(crate) const PRODUCT_INDEXES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/projections/product_search.indexes.sql");
pub(crate) const SAMPLE: &str = include_str!("../config/sample/schema.sql");

/// Ten of them, one a draft, one without anything but a name.
pub(crate) const PRODUCTS: &str = r#"
INSERT INTO custom_post_types (slug, name) VALUES ('product', 'Product'), ('page', 'Page');
INSERT INTO custom_posts ("postTypeId", slug, title, content, status, "customFields", "createdAt")
SELECT (SELECT id FROM custom_post_types WHERE slug = 'product'), 'p' || n, name, content, status,
       jsonb_build_object('sku', 'S' || n, 'brand', brand, 'categoryId', category, 'recommendedPrice', price, 'inventory', inventory,
                          'trackInventory', true),
       timestamptz '2025-01-01 00:00:00+00' + n * interval '1 hour'
FROM (VALUES
    (1, 'Red Running Shoes', 'Light <b>shoes</b> for running', 'publish', 'Acme', 'shoes', 100, 5),
    (2, 'Blue Running Shoes', 'Shoes for running & walking', 'publish', 'Acme', 'shoes', 120, 0),
    (3, 'Leather Boots', 'Boots of leather', 'publish', 'Bolt', 'shoes', 250, 3),
    (4, 'Cotton Shirt', 'A shirt', 'publish', 'Acme', 'shirts', 30, 10),
    (5, 'Wool Shirt', 'A warm shirt', 'publish', 'Cozy', 'shirts', 60, 1),
    (6, 'Silk Scarf', NULL, 'publish', 'Cozy', 'scarves', 45, 7),
    (7, 'Sport Watch', 'A watch', 'publish', 'Bolt', 'watches', 300, 2),
    (8, 'Hidden Draft', 'Not for you', 'draft', 'Acme', 'shoes', 1, 1),
    (9, 'Wool Socks', 'Warm socks', 'publish', 'Cozy', 'socks', 10, 100),
    (10, 'No Price', 'Ask for it', 'publish', NULL, NULL, NULL, NULL)
) AS v (n, name, content, status, brand, category, price, inventory)"#;

/// An answer: status, headers in lower case, body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.body))
    }

    /// Names of products, in their order.
    pub(crate) fn names(&self) -> Vec<String> {
        let json = self.json();
        let rows = json["data"].as_array().cloned().unwrap_or_else(|| panic!("{json}"));
        rows.iter().map(|row| row["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    pub(crate) fn source(&self) -> &str {
        self.header("lockstep-source").unwrap_or_default()
    }
}

/// A request as a client on the command line would write it.
pub(crate) async fn ask_with(method: &str, address: SocketAddr, path: &str, headers: &str) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("{method} {path} HTTP/1.0\r\n{headers}\r\n").as_bytes()).await?;
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await??;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| anyhow::anyhow!("no answer to {path}: {text}"))?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok()).unwrap_or(0);
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    Ok(Answer { status, headers, body: body.to_owned() })
}

pub(crate) async fn get_with(address: SocketAddr, path: &str, headers: &str) -> anyhow::Result<Answer> {
    ask_with("GET", address, path, headers).await
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    get_with(address, path, "").await
}

/// A client of server-sent events.
pub(crate) struct Feed {
    pub(crate) stream: TcpStream,
    pub(crate) text: String,
}

pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: String,
}

impl Feed {
    pub(crate) async fn open(address: SocketAddr, path: &str, headers: &str) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n{headers}\r\n").as_bytes()).await?;
        let mut this = Self { stream, text: String::new() };
        while !this.text.contains("\r\n\r\n") {
            this.read().await?;
        }
        let (head, rest) = this.text.split_once("\r\n\r\n").unwrap_or_default();
        anyhow::ensure!(head.contains("200 OK") && head.contains("text/event-stream"), "{head}");
        this.text = rest.to_owned();
        Ok(this)
    }

    pub(crate) async fn read(&mut self) -> anyhow::Result<()> {
        let mut bytes = vec![0; 65_536];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut bytes)).await??;
        anyhow::ensure!(read > 0, "the stream ended");
        self.text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        Ok(())
    }

    /// The next event; comments that keep the connection do not count.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Told> {
        let waited = tokio::time::timeout(PATIENCE, self.next_event()).await;
        waited.map_err(|_| anyhow::anyhow!("no event; received so far: {:?}", self.text))?
    }

    pub(crate) async fn next_event(&mut self) -> anyhow::Result<Told> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name));
                    line.map(|value| value.trim_start().to_owned()).unwrap_or_default()
                };
                let told = Told { name: field("event:"), id: field("id:"), data: field("data:") };
                let rest = rest.to_owned();
                self.text = rest;
                if !told.name.is_empty() {
                    return Ok(told);
                }
                continue;
            }
            self.read().await?;
        }
    }
}
