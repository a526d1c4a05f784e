//! Any projection, with filters: `GET /api/read/{projection}?price=gte.100&order=price.desc&limit=50`.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use lockstep_read::{Answer, Condition, Highlight, Operator, Order, OrderBy, Query, Request, Table, TextSearch, Window};

use super::parameters::{Named, Parameters};
use super::problem::Problem;
use super::respond;
use super::shared::{Api, sticky_key};

/// Rows of a page, unless it is said.
const LIMIT: u32 = 20;

/// Before the name of a column that is called like a parameter.
const FILTER_PREFIX: &str = "filter.";

/// `GET /api/read/{projection}`
pub(super) async fn read(
    State(api): State<Api>,
    Named(projection): Named,
    uri: Uri,
    headers: HeaderMap,
    peer: Option<axum::Extension<ConnectInfo<SocketAddr>>>,
) -> Result<Response, Problem> {
    let config = api.config();
    let table = api.reader.table(&projection).await?;
    let mut parameters = Parameters::of(&uri);
    let columns = names(parameters.take("select")?);
    let order_text = parameters.take("order")?;
    let limit = parameters.number("limit", LIMIT, config.page_max)?;
    let page = parameters.parse::<u32>("page", "a number from 1")?;
    let window = match (parameters.take("after")?, page) {
        (Some(_), Some(_)) => return Err(Problem::bad("page", "page and after exclude each other")),
        (_, Some(0)) => return Err(Problem::bad("page", "not a number from 1")),
        (None, Some(page)) => Window::Page { page, limit },
        (cursor, None) => Window::After { cursor, limit },
    };
    let total = parameters.total()?;
    let facets = parameters.facets(|name| Some(name.to_owned()))?;
    let highlight = parameters.take("highlight")?;
    let forced = parameters.source()?;
    let min_lsn = parameters.min_lsn(&headers)?;
    let (conditions, text) = conditions(parameters, &table)?;
    let request = Request {
        projection,
        query: Query {
            columns,
            conditions,
            order: order(order_text, text.is_some(), &table)?,
            text,
            window,
            total,
            facets,
            highlight: highlight.map(|text| Highlight { columns: names(Some(text)) }),
        },
        known: respond::known(&headers),
        identity: respond::identity(&uri),
        forced,
        sticky_key: sticky_key(&config, &headers, peer.as_deref()),
        min_lsn,
    };
    let answer = api.reader.read(&request).await?;
    let body = body(&answer, limit);
    Ok(respond::respond(&api, &answer, body))
}

fn names(text: Option<String>) -> Vec<String> {
    let text = text.unwrap_or_default();
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// `a.desc,b`: NULLs count as the largest.
fn order(text: Option<String>, searching: bool, table: &Table) -> Result<Vec<Order>, Problem> {
    let parts = names(text);
    if parts.is_empty() && searching {
        return Ok(vec![Order { parameter: "order".to_owned(), by: OrderBy::Rank, descending: true }]);
    }
    let one = |part: &String| {
        let (name, descending) = match part.rsplit_once('.') {
            Some((name, "asc")) => (name, false),
            Some((name, "desc")) => (name, true),
            // A column may have a dot in its name.
            Some(_) if table.has(part) => (part.as_str(), false),
            Some((_, other)) => return Err(Problem::bad("order", format!("\"{other}\" is neither asc nor desc"))),
            None => (part.as_str(), false),
        };
        let by = if name == "rank" && searching { OrderBy::Rank } else { OrderBy::Column(name.to_owned()) };
        Ok(Order { parameter: "order".to_owned(), by, descending })
    };
    parts.iter().map(one).collect()
}

/// Whatever is left filters; the first full-text search is the one that ranks.
fn conditions(parameters: Parameters, table: &Table) -> Result<(Vec<Condition>, Option<TextSearch>), Problem> {
    let mut conditions = Vec::new();
    let mut text = None;
    for (parameter, value) in parameters.rest() {
        let name = parameter.strip_prefix(FILTER_PREFIX).unwrap_or(&parameter);
        table.column(&parameter, name)?;
        let condition = Condition::parse(&parameter, name, &value)?;
        let is_vector = table.columns.iter().any(|column| column.name == name && column.is_text_vector());
        if condition.operator == Operator::Fts && is_vector && text.is_none() {
            let input = condition.values.into_iter().next().unwrap_or_default();
            text = Some(TextSearch { parameter, column: condition.column, input, similar: None });
        } else {
            conditions.push(condition);
        }
    }
    Ok((Condition::merged(conditions)?, text))
}

fn body(answer: &Answer, limit: u32) -> String {
    let next = serde_json::Value::from(answer.next.clone());
    let total = serde_json::Value::from(answer.total);
    format!(
        "{{\"data\":{},\"meta\":{{\"total\":{total},\"limit\":{limit},\"next\":{next}}}{}}}",
        respond::array(&answer.rows),
        respond::facets(answer)
    )
}
