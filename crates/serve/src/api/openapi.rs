//! The `OpenAPI` document: made from the catalogue, so that it has every projection's columns with their types.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use lockstep_config::ApiConfig;
use lockstep_read::{Column, JsonKind, Operator, Source, Table};
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::products::{COLUMNS, FACETS, ORDERS};
use super::shared::Api;

/// `GET /openapi.json`
pub(super) async fn document(State(api): State<Api>) -> Result<Response, Problem> {
    let config = api.config();
    let mut paths = Map::new();
    let mut schemas = Map::new();
    schemas.insert("Problem".to_owned(), problem());
    for model in api.reader.models() {
        // One that cannot be read now is left out rather than keeping the others back.
        let Ok(table) = api.reader.table(&model.name).await else { continue };
        schemas.insert(model.name.clone(), row(&table, None));
        paths.insert(format!("/api/read/{}", model.name), read(&model.name, &table, &config));
        if config.products.as_ref() == Some(&model.name) {
            schemas.insert("Product".to_owned(), row(&table, Some(&COLUMNS)));
            paths.extend(products(&config));
        }
    }
    for projection in api.reader.models().iter().filter(|model| api.follower.subscribe(&model.name).is_some()) {
        paths.insert(format!("/api/changes/{}", projection.name), changes(&projection.name));
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Lockstep read API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Read models that follow their source within milliseconds. Every answer names its source (Lockstep-Source), how long ago it was known to be current in seconds (Lockstep-Staleness) and the source position that it contains (Lockstep-LSN)."
        },
        "paths": paths,
        "components": { "schemas": schemas }
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], document.to_string()).into_response())
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "problem+json (RFC 9457)",
        "required": ["success", "type", "title", "status", "detail", "error"],
        "properties": {
            "success": { "const": false }, "type": { "type": "string" }, "title": { "type": "string" },
            "status": { "type": "integer" }, "detail": { "type": "string" }, "error": { "type": "string" },
            "parameter": { "type": "string", "description": "the parameter that is wrong" }
        }
    })
}

/// The JSON type that PostgreSQL prints for a column.
fn type_of(column: &Column) -> Value {
    let (name, what) = match column.json {
        JsonKind::Any => return json!({}),
        JsonKind::Boolean => ("boolean", json!({})),
        JsonKind::Integer => ("integer", json!({})),
        // NaN and the infinities are printed as texts.
        JsonKind::Number => return json!({ "type": ["number", "string", "null"] }),
        JsonKind::Array => ("array", json!({ "items": {} })),
        JsonKind::Object => ("object", json!({})),
        JsonKind::Text => ("string", json!({})),
    };
    let mut schema = what;
    schema["type"] = if column.not_null { json!(name) } else { json!([name, "null"]) };
    schema
}

fn row(table: &Table, only: Option<&[&str]>) -> Value {
    let shown = |column: &&Column| match only {
        Some(names) => names.contains(&column.name.as_str()),
        None => !column.is_text_vector(),
    };
    let properties: Map<String, Value> =
        table.columns.iter().filter(shown).map(|column| (column.name.clone(), type_of(column))).collect();
    json!({ "type": "object", "properties": properties })
}

/// PostgreSQL's texts cannot have a byte 0.
fn text() -> Value {
    json!({ "type": "string", "pattern": "^[^\\u0000]*$" })
}

fn parameter(name: &str, description: &str, schema: &Value) -> Value {
    json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema })
}

/// Values separated by commas; one with a comma or a quote stands in quotes.
fn list() -> Value {
    let value = r#"([^,"\\\u0000]*|"([^"\\\u0000]|\\[^\u0000])*")"#;
    json!({ "type": "string", "pattern": format!("^{value}(,{value})*$") })
}

/// A parameter that may be given repeatedly, and each time as a list separated by commas.
fn several(name: &str, description: &str, schema: &Value) -> Value {
    let description = format!("{description} Given repeatedly, or as a list: a,\"b,c\".");
    json!({ "name": name, "in": "query", "required": false, "description": description, "explode": true,
            "schema": { "type": "array", "items": schema } })
}

/// Parameters that every list has.
fn common(config: &ApiConfig) -> Vec<Value> {
    let mut parameters = vec![
        parameter(
            "min_lsn",
            "The answer must contain this source position; waits for it. Also as header Lockstep-Min-LSN.",
            &json!({ "type": "string", "pattern": "^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$" }),
        ),
        json!({ "name": "If-None-Match", "in": "header", "required": false, "schema": { "type": "string" } }),
    ];
    if config.read.allow_forced {
        let sources = json!({ "enum": Source::ALL.map(Source::name) });
        parameters.push(parameter("source", "Read from this source alone.", &sources));
    }
    parameters
}

fn responses(schema: &Value) -> Value {
    let problem = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
    json!({
        "200": { "description": "Found.", "content": { "application/json": { "schema": schema } } },
        "304": { "description": "The client has it: nothing has changed." },
        "400": { "description": "A parameter is wrong; it is named.", "content": problem },
        "404": { "description": "There is no such thing.", "content": problem },
        "414": { "description": "The request's line is too long.", "content": problem },
        "503": { "description": "Nothing can answer now, the projection is set aside, or the position is not contained yet.", "content": problem },
        "504": { "description": "It took too long.", "content": problem }
    })
}

fn read(name: &str, table: &Table, config: &ApiConfig) -> Value {
    let mut parameters = vec![
        parameter("select", "Columns, separated by commas.", &json!({ "type": "string" })),
        parameter("order", "Columns, each with .asc or .desc; rank with a full-text search.", &json!({ "type": "string" })),
        parameter("limit", "Rows of a page.", &json!({ "type": "integer", "minimum": 1, "maximum": config.page_max })),
        parameter("after", "The cursor that the page before gave as next.", &json!({ "type": "string" })),
        parameter("page", "The n-th page instead.", &json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX })),
        parameter("total", "How to count.", &json!({ "enum": ["exact", "estimated", "none"] })),
        parameter("facets", "Columns whose values are counted.", &json!({ "type": "string" })),
        parameter("highlight", "Text columns in which the words of a full-text search are marked.", &json!({ "type": "string" })),
    ];
    parameters.extend(common(config));
    for column in &table.columns {
        let operators: Vec<&str> =
            Operator::ALL.iter().filter(|(_, operator)| operator.is_for(column)).map(|(name, _)| *name).collect();
        let description = format!(
            "{}: operator.value, with {}. May be given more than once: all must hold, but of eq and in any.",
            column.type_name,
            operators.join(", ")
        );
        let filter = json!({ "type": "string", "pattern": format!("^({})\\.", operators.join("|")) });
        parameters.push(parameter(&format!("filter.{}", column.name), &description, &filter));
    }
    let schema = json!({
        "type": "object",
        "required": ["data", "meta"],
        "properties": {
            "data": { "type": "array", "items": { "$ref": format!("#/components/schemas/{name}") } },
            "meta": { "type": "object", "properties": {
                "total": { "type": ["integer", "null"] }, "limit": { "type": "integer" }, "next": { "type": ["string", "null"] } } },
            "facets": { "type": "object" }
        }
    });
    json!({ "get": { "operationId": format!("read_{name}"), "summary": format!("Rows of {name}."), "parameters": parameters, "responses": responses(&schema) } })
}

fn products(config: &ApiConfig) -> Map<String, Value> {
    let names = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
    let facet = names(&FACETS).join("|");
    let facets = json!({ "type": "string", "pattern": format!("^(({facet})(,({facet})){{0,2}})?$") });
    let filters = vec![
        several("categoryId", "Of any of these categories.", &list()),
        several("brand", "Of any of these brands.", &list()),
        parameter("priceMin", "At this price or above.", &json!({ "type": "number" })),
        parameter("priceMax", "At this price or below.", &json!({ "type": "number" })),
        parameter("inStock", "true: only what is in stock.", &json!({ "type": "boolean" })),
        several("status", "Any of these; publish, if left out.", &json!({ "enum": ["publish", "draft"] })),
        parameter("q", "Words, as for a web search: \"red shoes\" -leather or boots.", &text()),
        parameter("search", "The same as q.", &text()),
        parameter("highlight", "Mark what was found.", &json!({ "type": "boolean" })),
        parameter("page", "From 1.", &json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX })),
        parameter("limit", "Rows of a page.", &json!({ "type": "integer", "minimum": 1, "maximum": config.page_max })),
        parameter("sortBy", "created_at if left out; the best first when searching.", &json!({ "enum": names(&ORDERS) })),
        parameter("sortOrder", "DESC if left out.", &json!({ "enum": ["ASC", "DESC"] })),
        parameter("total", "How to count.", &json!({ "enum": ["exact", "estimated"] })),
        parameter("facets", &format!("Of {}, each once, separated by commas.", names(&FACETS).join(", ")), &facets),
    ];
    let schema = json!({
        "type": "object",
        "required": ["success", "data", "meta"],
        "properties": {
            "success": { "const": true },
            "data": { "type": "array", "items": { "$ref": "#/components/schemas/Product" } },
            "meta": { "type": "object", "required": ["total", "page", "limit", "totalPages"], "properties": {
                "total": { "type": "integer" }, "page": { "type": "integer" }, "limit": { "type": "integer" },
                "totalPages": { "type": "integer" }, "similar": { "const": true, "description": "nothing had the words; these are similar" } } },
            "facets": { "type": "object" }
        }
    });
    let operation = |id: &str, summary: &str, path_parameter: Option<&str>| {
        let mut parameters: Vec<Value> = filters.iter().cloned().chain(common(config)).collect();
        if let Some(name) = path_parameter {
            parameters
                .push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1, "pattern": "^[^\\u0000]*$" } }));
        }
        json!({ "get": { "operationId": id, "summary": summary, "parameters": parameters, "responses": responses(&schema) } })
    };
    let mut paths = Map::new();
    paths.insert("/api/products".to_owned(), operation("listProducts", "Products, filtered.", None));
    let mut search = operation("searchProducts", "Full-text search; similar words if nothing has the words themselves.", None);
    if let Some(parameters) = search.pointer_mut("/get/parameters").and_then(Value::as_array_mut) {
        // Here q is the one way to say it.
        parameters.retain(|parameter| parameter["name"] != "search");
        parameters.iter_mut().filter(|parameter| parameter["name"] == "q").for_each(|q| {
            q["required"] = json!(true);
            q["schema"]["minLength"] = json!(1);
        });
    }
    paths.insert("/api/products/search".to_owned(), search);
    paths.insert(
        "/api/categories/{id}/products".to_owned(),
        operation("productsOfCategory", "Products of a category.", Some("id")),
    );
    paths.insert("/api/brands/{brand}/products".to_owned(), operation("productsOfBrand", "Products of a brand.", Some("brand")));
    let suggestions = json!({ "type": "object", "properties": { "success": { "const": true }, "data": { "type": "array", "items": {
        "type": "object", "properties": { "value": { "type": "string" }, "match": { "enum": ["prefix", "similar"] } } } } } });
    paths.insert(
        "/api/products/suggest".to_owned(),
        json!({ "get": { "operationId": "suggestProducts", "summary": "Names that somebody may be about to type.", "parameters": [
            { "name": "q", "in": "query", "required": true, "schema": { "type": "string", "minLength": 1, "pattern": "^[^\\u0000]*$" } },
            parameter("limit", "At most so many.", &json!({ "type": "integer", "minimum": 1, "maximum": 50 }))
        ], "responses": responses(&suggestions) } }),
    );
    paths
}

fn changes(name: &str) -> Value {
    json!({ "get": {
        "operationId": format!("changes_{name}"),
        "summary": format!("What each batch changed in {name}, as server-sent events: change with the keys, ready at the beginning, reset when what came in between has been forgotten."),
        "parameters": [
            parameter("since", "The id of the last event that was seen.", &json!({ "type": "integer" })),
            { "name": "Last-Event-ID", "in": "header", "required": false, "schema": { "type": "integer" } }
        ],
        "responses": {
            "200": { "description": "A stream without end.", "content": { "text/event-stream": { "schema": { "type": "string" } } } },
            "400": { "description": "A parameter is wrong." }, "404": { "description": "There is no such feed." }
        }
    } })
}
