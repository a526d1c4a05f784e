//! The product endpoints: parameters and shape are those of a catalogue's API that was there before.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use lockstep_read::{
    Answer, Condition, Highlight, Operator, Order, OrderBy, Query, ReadError, Request, Similar, TextSearch, Total, Window,
};

use super::parameters::{Named, Parameters};
use super::problem::Problem;
use super::respond;
use super::shared::{Api, sticky_key};

/// What a product shows in a list.
pub(super) const COLUMNS: [&str; 9] =
    ["id", "slug", "name", "sku", "recommended_price", "inventory", "brand", "in_stock", "created_at"];

/// The column that people search in when they mistype, and that suggestions come from.
const NAME: &str = "name";

/// What a product costs.
const PRICE: &str = "recommended_price";

/// Rows of a page, unless it is said.
const LIMIT: u32 = 20;

/// Suggestions, unless it is said, and at most.
const SUGGESTIONS: (u32, u32) = (10, 50);

/// Facets and their columns.
pub(super) const FACETS: [(&str, &str); 3] = [("brand", "brand"), ("category", "category_id"), ("price", PRICE)];

/// Orders and their columns.
pub(super) const ORDERS: [(&str, &str); 3] = [("created_at", "created_at"), ("price", PRICE), ("name", "name")];

type Peer = Option<axum::Extension<ConnectInfo<SocketAddr>>>;

/// `GET /api/products`
pub(super) async fn list(State(api): State<Api>, uri: Uri, headers: HeaderMap, peer: Peer) -> Result<Response, Problem> {
    products(&api, &uri, &headers, peer, Fixed::default()).await
}

/// `GET /api/products/search?q=…`
pub(super) async fn search(State(api): State<Api>, uri: Uri, headers: HeaderMap, peer: Peer) -> Result<Response, Problem> {
    products(&api, &uri, &headers, peer, Fixed { must_search: true, ..Fixed::default() }).await
}

/// `GET /api/categories/{id}/products`
pub(super) async fn of_category(
    State(api): State<Api>,
    Named(id): Named,
    uri: Uri,
    headers: HeaderMap,
    peer: Peer,
) -> Result<Response, Problem> {
    products(&api, &uri, &headers, peer, Fixed { condition: Some(("categoryId", "category_id", id)), must_search: false }).await
}

/// `GET /api/brands/{brand}/products`
pub(super) async fn of_brand(
    State(api): State<Api>,
    Named(brand): Named,
    uri: Uri,
    headers: HeaderMap,
    peer: Peer,
) -> Result<Response, Problem> {
    products(&api, &uri, &headers, peer, Fixed { condition: Some(("brand", "brand", brand)), must_search: false }).await
}

/// What the path of an endpoint says: parameter, column, value.
#[derive(Default)]
struct Fixed {
    condition: Option<(&'static str, &'static str, String)>,
    must_search: bool,
}

async fn products(api: &Api, uri: &Uri, headers: &HeaderMap, peer: Peer, fixed: Fixed) -> Result<Response, Problem> {
    let config = api.config();
    let projection = config.products.clone().ok_or_else(|| Problem::not_found("no projection answers for products"))?;
    let mut parameters = Parameters::of(uri);
    let conditions = conditions(&mut parameters, &fixed)?;
    let input = match (parameters.take("q")?, parameters.take("search")?) {
        (Some(_), Some(_)) => return Err(Problem::bad("search", "q and search are the same: give one")),
        (Some(input), None) => Some(("q", input)),
        (None, Some(input)) => Some(("search", input)),
        (None, None) if fixed.must_search => return Err(Problem::bad("q", "say what to search for")),
        (None, None) => None,
    };
    let highlight = parameters.word("highlight", &[("true", true), ("false", false)])?.unwrap_or(false);
    if highlight && input.is_none() {
        return Err(Problem::bad("highlight", "there is no search whose words could be marked"));
    }
    let text = match input {
        Some((parameter, input)) => {
            let table = api.reader.table(&projection).await?;
            let column = table.text_vector().ok_or_else(|| Problem::bad(parameter, "these products have no full text"))?;
            let similar = table.trigrams.clone().map(|trigrams| Similar { column: NAME.to_owned(), trigrams });
            Some((TextSearch { parameter: parameter.to_owned(), column: column.name.clone(), input, similar: None }, similar))
        }
        None => None,
    };
    let order = order(&mut parameters, text.is_some())?;
    let page = parameters.number("page", 1, u32::MAX)?;
    let limit = parameters.number("limit", LIMIT, config.page_max)?;
    let (text, similar) = text.map_or((None, None), |(text, similar)| (Some(text), similar));
    let request = Request {
        projection,
        query: Query {
            columns: COLUMNS.iter().map(|&name| name.to_owned()).collect(),
            conditions,
            text,
            order,
            window: Window::Page { page, limit },
            total: match parameters.total()? {
                Total::None => return Err(Problem::bad("total", "not one of exact, estimated")),
                total @ (Total::Exact | Total::Estimated) => total,
            },
            facets: parameters
                .facets(|name| FACETS.iter().find(|(facet, _)| *facet == name).map(|(_, column)| (*column).to_owned()))?,
            highlight: highlight.then(|| Highlight { columns: vec!["name".to_owned(), "description".to_owned()] }),
        },
        known: respond::known(headers),
        identity: respond::identity(uri),
        forced: parameters.source()?,
        min_lsn: parameters.min_lsn(headers)?,
        sticky_key: sticky_key(&config, headers, peer.as_deref()),
    };
    parameters.done()?;
    let (answer, similar) = Box::pin(answer(api, request, similar)).await?;
    let body = body(&answer, page, limit, similar);
    Ok(respond::respond(api, &answer, body))
}

/// The answer, and whether it is to a similar question: nothing had the words themselves.
async fn answer(api: &Api, mut request: Request, similar: Option<Similar>) -> Result<(Arc<Answer>, bool), ReadError> {
    let answer = api.reader.read(&request).await?;
    let first_page = matches!(request.query.window, Window::Page { page: 1, .. });
    let found_nothing = first_page && answer.rows.is_empty() && !answer.not_modified;
    let (Some(similar), Some(text), true) = (similar, request.query.text.as_mut(), found_nothing) else {
        return Ok((answer, false));
    };
    text.similar = Some(similar);
    // The words cannot be marked: they are not there.
    request.query.highlight = None;
    request.known = None;
    request.identity.push_str(" similar");
    let second = api.reader.read(&request).await?;
    Ok((second, true))
}

fn conditions(parameters: &mut Parameters, fixed: &Fixed) -> Result<Vec<Condition>, Problem> {
    let mut conditions = Vec::new();
    let status = parameters.words("status", &[("publish", "publish"), ("draft", "draft")])?;
    let status = if status.is_empty() { vec!["publish"] } else { status };
    conditions.push(Condition::any_of("status", "status", status.into_iter().map(str::to_owned).collect()).scope());
    if let Some((parameter, column, value)) = &fixed.condition {
        conditions.push(Condition::new(parameter, column, Operator::Eq, value.clone()).scope());
    }
    for (name, column) in [("categoryId", "category_id"), ("brand", "brand")] {
        let is_fixed = fixed.condition.as_ref().is_some_and(|(parameter, ..)| *parameter == name);
        // What the path says cannot be said again.
        let values = if is_fixed { Vec::new() } else { parameters.list(name)? };
        if !values.is_empty() {
            conditions.push(Condition::any_of(name, column, values));
        }
    }
    for (name, operator) in [("priceMin", Operator::Gte), ("priceMax", Operator::Lte)] {
        if let Some(value) = parameters.decimal(name)? {
            conditions.push(Condition::new(name, PRICE, operator, value));
        }
    }
    // As the plan has it: false asks for nothing.
    if parameters.word("inStock", &[("true", true), ("false", false)])? == Some(true) {
        conditions.push(Condition::new("inStock", "in_stock", Operator::Eq, "true"));
    }
    Ok(conditions)
}

fn order(parameters: &mut Parameters, searching: bool) -> Result<Vec<Order>, Problem> {
    let by = parameters.word("sortBy", &ORDERS)?;
    let descending = parameters.word("sortOrder", &[("ASC", false), ("DESC", true)])?;
    let by = match by {
        Some(column) => OrderBy::Column(column.to_owned()),
        // Who searches wants the best first.
        None if searching && descending.is_none() => OrderBy::Rank,
        None => OrderBy::Column("created_at".to_owned()),
    };
    Ok(vec![Order { parameter: "sortBy".to_owned(), by, descending: descending.unwrap_or(true) }])
}

fn body(answer: &Answer, page: u32, limit: u32, similar: bool) -> String {
    let total = answer.total.unwrap_or_default();
    let pages = (total + i64::from(limit) - 1) / i64::from(limit);
    let similar = if similar { ",\"similar\":true" } else { "" };
    format!(
        "{{\"success\":true,\"data\":{},\"meta\":{{\"total\":{total},\"page\":{page},\"limit\":{limit},\"totalPages\":{pages}{similar}}}{}}}",
        respond::array(&answer.rows),
        respond::facets(answer)
    )
}

/// `GET /api/products/suggest?q=…`
pub(super) async fn suggest(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    let projection = api.config().products.clone().ok_or_else(|| Problem::not_found("no projection answers for products"))?;
    let mut parameters = Parameters::of(&uri);
    let input = parameters.take("q")?.ok_or_else(|| Problem::bad("q", "say what was typed"))?;
    let limit = parameters.number("limit", SUGGESTIONS.0, SUGGESTIONS.1)?;
    parameters.done()?;
    let found = api.reader.suggest(&projection, NAME, &input, Some("t.status = 'publish'"), limit).await?;
    let rows: Vec<String> = found
        .iter()
        .map(|found| {
            let matched = if found.prefix { "prefix" } else { "similar" };
            serde_json::json!({ "value": found.value, "match": matched }).to_string()
        })
        .collect();
    let body = format!("{{\"success\":true,\"data\":{}}}", respond::array(&rows));
    Ok(respond::respond(&api, &Answer::default(), body))
}
