//! The endpoints of the read API over HTTP, against a live projector.

use std::time::Duration;

use lockstep_testkit::cluster;
use serde_json::Value;

use crate::harness::{PATIENCE, until};
use crate::http::{Feed, ask_with, get, get_with};
use crate::serving::Shop;

#[tokio::test(flavor = "multi_thread")]
async fn products_as_the_plan_has_them() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let shop = Shop::open(&cluster.url("postgres"), "", "").await?;
    let at = shop.address;
    let all = get(at, "/api/products").await?;
    assert_eq!((all.status, all.source()), (200, "projection"), "{}", all.body);
    let json = all.json();
    assert_eq!(json["success"], true);
    assert_eq!(json["meta"], serde_json::json!({ "total": 9, "page": 1, "limit": 20, "totalPages": 1 }));
    let first = json["data"][0].as_object().cloned().unwrap_or_default();
    let mut columns: Vec<&String> = first.keys().collect();
    columns.sort();
    assert_eq!(columns, ["brand", "created_at", "id", "in_stock", "inventory", "name", "recommended_price", "sku", "slug"]);
    assert_eq!(all.names()[0], "No Price", "the newest first");
    for (path, expected) in [
        (
            "/api/products?categoryId=shoes&sortBy=price&sortOrder=ASC",
            vec!["Red Running Shoes", "Blue Running Shoes", "Leather Boots"],
        ),
        (
            "/api/products?priceMin=50&priceMax=150&inStock=true&sortBy=name&sortOrder=asc",
            vec!["Red Running Shoes", "Wool Shirt"],
        ),
        ("/api/products?brand=Cozy&sortBy=price", vec!["Wool Shirt", "Silk Scarf", "Wool Socks"]),
        ("/api/products?status=draft", vec!["Hidden Draft"]),
        // Listed and repeated values mean any of them.
        ("/api/products?brand=Cozy,Nobody&sortBy=price", vec!["Wool Shirt", "Silk Scarf", "Wool Socks"]),
        ("/api/products?brand=Nobody&brand=%22Cozy%22,&sortBy=price", vec!["Wool Shirt", "Silk Scarf", "Wool Socks"]),
        ("/api/products?brand=%22Cozy,Bolt%22", vec![]),
        (
            "/api/products?status=draft,publish&brand=Bolt&sortBy=price&sortOrder=ASC&priceMin=0",
            vec!["Leather Boots", "Sport Watch"],
        ),
        (
            "/api/products?categoryId=shoes&categoryId=shirts&brand=Cozy,Bolt&sortBy=name&sortOrder=ASC",
            vec!["Leather Boots", "Wool Shirt"],
        ),
        ("/api/products?limit=2&page=2&sortBy=name&sortOrder=ASC", vec!["Leather Boots", "No Price"]),
        ("/api/products?page=1000000000", vec![]),
        ("/api/products/search?q=running", vec!["Red Running Shoes", "Blue Running Shoes"]),
        ("/api/products/search?q=running%20-blue", vec!["Red Running Shoes"]),
        ("/api/products?search=%22warm%20socks%22", vec!["Wool Socks"]),
        ("/api/products/search?q=scarf%20or%20watch&sortBy=name&sortOrder=ASC", vec!["Silk Scarf", "Sport Watch"]),
        ("/api/products/search?q=%26%20%7C%20!%20(%20'", vec![]),
        ("/api/categories/shirts/products?sortBy=price&sortOrder=DESC", vec!["Wool Shirt", "Cotton Shirt"]),
        ("/api/brands/Bolt/products?sortBy=price&sortOrder=ASC", vec!["Leather Boots", "Sport Watch"]),
        ("/api/brands/Nobody/products", vec![]),
    ] {
        let mut found = shop.names(path).await?;
        if path.contains("q=running") {
            // Equal ranks are told apart by the key, which is random.
            found.sort_by_key(|name| !name.starts_with("Red"));
        }
        assert_eq!(found, expected, "{path}");
    }
    // Facets are of the filtered list, but for their own column's filter: who has chosen one value sees the others.
    let chosen = |path: &'static str| async move { anyhow::Ok(get(at, path).await?.json()["facets"]["brand"]["values"].clone()) };
    let all = chosen("/api/products?priceMin=40&facets=brand").await?;
    assert_eq!(all.as_array().map(Vec::len), Some(3));
    assert_eq!(chosen("/api/products?priceMin=40&brand=Acme,Bolt&facets=brand").await?, all);
    assert_eq!(
        chosen("/api/read/product_search?recommended_price=gte.40&brand=eq.Acme&status=eq.publish&facets=brand").await?,
        all
    );
    let of_path = chosen("/api/brands/Acme/products?priceMin=40&facets=brand").await?;
    assert_eq!(of_path, serde_json::json!([{ "value": "Acme", "count": 2 }]), "what the path says is no choice");
    let read = get(at, "/api/read/product_search?brand=eq.Cozy&brand=in.(Bolt)&status=eq.publish").await?.json();
    assert_eq!(read["meta"]["total"], 5, "{read}");
    let faceted = get(at, "/api/products?priceMin=40&facets=brand,category,price&limit=1").await?.json();
    assert_eq!(
        faceted["facets"]["brand"]["values"],
        serde_json::json!([{ "value": "Acme", "count": 2 }, { "value": "Bolt", "count": 2 }, { "value": "Cozy", "count": 2 }])
    );
    assert_eq!(faceted["facets"]["category"]["values"][0], serde_json::json!({ "value": "shoes", "count": 3 }));
    let ranges = faceted["facets"]["price"]["ranges"].as_array().cloned().unwrap_or_default();
    let counted: i64 = ranges.iter().filter_map(|range| range["count"].as_i64()).sum();
    assert_eq!((counted, &faceted["facets"]["price"]["max"]), (8, &300.into()), "{faceted}");
    // Snippets are safe to put into a page.
    let marked = get(at, "/api/products/search?q=shoes&highlight=true&brand=Acme&inStock=true").await?.json();
    let snippet = marked["data"][0]["highlight"]["description"].as_str().unwrap_or_default().to_owned();
    assert!(snippet.contains("<mark>shoes</mark>") && snippet.contains("&lt;b&gt;"), "{snippet}");
    let estimated = get(at, "/api/products?total=estimated").await?;
    assert!(estimated.status == 200 && estimated.json()["meta"]["total"].is_i64(), "{}", estimated.body);
    // Nothing here knows similar words without pg_trgm.
    assert_eq!(shop.names("/api/products/search?q=runing").await?, Vec::<String>::new());
    shop.session.batch_execute("CREATE SCHEMA extensions; CREATE EXTENSION pg_trgm SCHEMA extensions").await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        // The catalogue is looked at every few seconds.
        let similar = get(at, "/api/products/search?q=lether").await?;
        if similar.names() == ["Leather Boots"] {
            assert_eq!(similar.json()["meta"]["similar"], true);
            break;
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{}", similar.body);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let suggested = get(at, "/api/products/suggest?q=wo").await?.json();
    assert_eq!(
        suggested["data"],
        serde_json::json!([{ "value": "Wool Shirt", "match": "prefix" }, { "value": "Wool Socks", "match": "prefix" }])
    );
    let suggested = get(at, "/api/products/suggest?q=lether&limit=1").await?.json();
    assert_eq!(suggested["data"], serde_json::json!([{ "value": "Leather Boots", "match": "similar" }]));
    assert_eq!(get(at, "/api/products/suggest?q=%25").await?.json()["data"], serde_json::json!([]), "% is no wildcard");
    shop.projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let shop = Shop::open(&cluster.url("postgres"), "", "").await?;
    for (path, parameter) in [
        ("/api/products?priceMin=cheap", "priceMin"),
        ("/api/products?priceMax=1e400000", "priceMax"),
        ("/api/products?page=0", "page"),
        ("/api/products?page=-1", "page"),
        ("/api/products?limit=101", "limit"),
        ("/api/products?sortBy=id;DROP%20TABLE%20custom_posts", "sortBy"),
        ("/api/products?sortOrder=up", "sortOrder"),
        ("/api/products?inStock=maybe", "inStock"),
        ("/api/products?status=trash", "status"),
        ("/api/products?facets=brand,secret", "facets"),
        ("/api/products?colour=red", "colour"),
        ("/api/products?brand=%22a", "brand"),
        ("/api/products?status=draft,trash", "status"),
        ("/api/products?priceMin=1&priceMin=2", "priceMin"),
        ("/api/products?brand=a%00b", "brand"),
        ("/api/products?highlight=true", "highlight"),
        ("/api/products?source=view", "source"),
        ("/api/products?min_lsn=now", "min_lsn"),
        ("/api/products?min_lsn=", "min_lsn"),
        ("/api/products?priceMin=NaN", "priceMin"),
        ("/api/products?priceMax=infinity", "priceMax"),
        ("/api/products/search", "q"),
        ("/api/products/suggest", "q"),
        ("/api/products/suggest?q=%00", "q"),
        ("/api/read/product_search?colour=eq.red", "colour"),
        ("/api/read/product_search?recommended_price=red", "recommended_price"),
        ("/api/read/product_search?recommended_price=eq.red", "recommended_price"),
        ("/api/read/product_search?id=eq.1", "id"),
        ("/api/read/product_search?search_vector=eq.1", "search_vector"),
        ("/api/read/product_search?name=fts.x", "name"),
        ("/api/read/product_search?recommended_price=like.1", "recommended_price"),
        ("/api/read/product_search?select=name,nothing", "select"),
        ("/api/read/product_search?order=nothing.desc", "order"),
        ("/api/read/product_search?order=name.up", "order"),
        ("/api/read/product_search?after=nonsense", "after"),
        ("/api/read/product_search?after=WyJ4Il0", "after"),
        ("/api/read/product_search?limit=0", "limit"),
        ("/api/read/product_search?facets=search_vector", "facets"),
        ("/api/read/product_search?highlight=name", "highlight"),
        ("/api/changes/product_search?since=x", "since"),
        ("/api/read/product_search?order=name,sku,name.desc", "order"),
        ("/api/read/product_search?facets=brand,brand", "facets"),
        ("/api/read/keyless?after=W10", "after"),
        ("/api/brands/Acme/products?brand=Bolt", "brand"),
    ] {
        let answer = get(shop.address, path).await?;
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let problem = answer.json();
        assert_eq!(problem["parameter"], parameter, "{path}: {problem}");
        for internal in ["read_model", "SELECT", "postgres", "custom_posts\"", "ERROR"] {
            assert!(!answer.body.contains(internal), "{path} tells {internal}: {}", answer.body);
        }
    }
    for path in [
        "/",
        "/api",
        "/api/read/%ff",
        "/api/changes/%c3",
        "/api/brands/%ff/products",
        "/api/read/nothing",
        "/api/changes/nothing",
        "/api/products/x/y",
        "/api/read/product_search__2",
    ] {
        let answer = get(shop.address, path).await?;
        assert!(answer.status == 404 && answer.json()["status"] == 404, "{path}: {} {}", answer.status, answer.body);
    }
    // Whatever is written into a parameter is a value: never an error of the server, and never more rows than without it.
    let evil = [
        "'",
        "\"",
        "';--",
        "' OR '1'='1",
        "\\",
        "%27",
        "$1",
        "${}",
        ");DROP TABLE custom_posts;--",
        "1; SELECT pg_sleep(9)",
        "\u{1F600}",
        "a\u{0}",
        "::text",
        "{{}}",
        "/*",
        "%",
        "_",
        "NULL",
        "NaN",
        "Infinity",
        "0x1",
        "1e3",
    ];
    let names = [
        "categoryId",
        "priceMin",
        "priceMax",
        "inStock",
        "brand",
        "search",
        "q",
        "status",
        "page",
        "limit",
        "sortBy",
        "sortOrder",
        "facets",
        "total",
        "highlight",
        "source",
        "min_lsn",
    ];
    let generic = [
        "select",
        "order",
        "limit",
        "after",
        "page",
        "total",
        "facets",
        "highlight",
        "name",
        "recommended_price",
        "id",
        "filter.sku",
    ];
    for value in evil {
        let encoded: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
        let mut paths: Vec<String> = names.iter().map(|name| format!("/api/products?{name}={encoded}")).collect();
        paths.extend(generic.iter().map(|name| format!("/api/read/product_search?{name}={encoded}")));
        paths.extend(
            ["eq.", "in.(", "like.", "fts.", "is."].map(|operator| format!("/api/read/product_search?name={operator}{encoded}")),
        );
        paths.push(format!("/api/brands/{}/products", encoded.replace('+', "%20")));
        paths.push(format!("/api/products/suggest?q={encoded}"));
        paths.push(format!("/api/products?{encoded}=1"));
        paths.push(format!("/api/read/product_search?{encoded}=eq.1"));
        for path in paths {
            let answer = get(shop.address, &path).await?;
            assert!(answer.status < 500, "{path}: {} {}", answer.status, answer.body);
            if answer.status == 200 {
                assert!(answer.json()["data"].as_array().is_some_and(|rows| rows.len() <= 10), "{path}");
            }
        }
    }
    let count: i64 = shop.session.query_one("SELECT count(*) FROM custom_posts", &[]).await?.get(0);
    assert_eq!(count, 10);
    shop.projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_projection_with_filters_and_pages() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let shop = Shop::open(&cluster.url("postgres"), "", "").await?;
    for (query, expected) in [
        (
            "recommended_price=gte.100&recommended_price=lt.300&order=recommended_price",
            vec!["Red Running Shoes", "Blue Running Shoes", "Leather Boots"],
        ),
        ("recommended_price=is.null", vec!["No Price"]),
        ("brand=is.notnull&recommended_price=lte.10&order=name", vec!["Hidden Draft", "Wool Socks"]),
        ("sku=in.(S1,%22S3%22,S99)&order=sku", vec!["Red Running Shoes", "Leather Boots"]),
        ("sku=in.()", vec![]),
        ("name=like.Wool*&order=name.desc", vec!["Wool Socks", "Wool Shirt"]),
        ("name=ilike.*SHIRT&order=name", vec!["Cotton Shirt", "Wool Shirt"]),
        ("status=ne.publish", vec!["Hidden Draft"]),
        ("in_stock=eq.true&brand=eq.Bolt&order=created_at", vec!["Leather Boots", "Sport Watch"]),
        ("search_vector=fts.warm&order=name", vec!["Wool Shirt", "Wool Socks"]),
        ("filter.name=eq.Silk%20Scarf", vec!["Silk Scarf"]),
        ("created_at=lt.2025-01-01T02:30:00Z&order=created_at.desc", vec!["Blue Running Shoes", "Red Running Shoes"]),
    ] {
        assert_eq!(shop.names(&format!("/api/read/product_search?select=name&{query}")).await?, expected, "{query}");
    }
    // Page by page, in every direction, NULLs included: each row once, in the order of the whole.
    for order in [
        "recommended_price",
        "recommended_price.desc",
        "brand.desc,recommended_price",
        "brand,name.desc",
        "in_stock.desc,inventory.desc",
        "",
    ] {
        let whole = shop.names(&format!("/api/read/product_search?limit=100&order={order}")).await?;
        assert_eq!(whole.len(), 10);
        let mut paged = Vec::new();
        let mut after = String::new();
        loop {
            let page =
                get(shop.address, &format!("/api/read/product_search?limit=1&total=none&order={order}&after={after}")).await?;
            paged.extend(page.names());
            let next = page.json()["meta"]["next"].clone();
            match next.as_str() {
                Some(cursor) => after = cursor.to_owned(),
                None => break,
            }
        }
        assert_eq!(paged, whole, "{order}");
    }
    // A type whose plain name means another length, a column that is called as we might call something, no key at all.
    let odd = get(shop.address, "/api/read/odd?code=eq.c4").await?.json();
    assert_eq!(odd["data"], serde_json::json!([{ "code": "c4   ", "r": "[4,6)", "k": 1 }]));
    let odd = get(shop.address, "/api/read/odd?code=gt.c3&order=k.desc&limit=100").await?.json();
    assert_eq!((odd["data"].as_array().map(Vec::len), &odd["meta"]["total"]), (Some(6), &6.into()));
    let keyless = get(shop.address, "/api/read/keyless?order=k&limit=2").await?.json();
    assert_eq!(keyless["meta"]["next"], Value::Null, "nothing identifies a row");
    let paged = get(shop.address, "/api/read/keyless?order=k&limit=2&page=5").await?.json();
    assert_eq!(paged["data"], serde_json::json!([{ "k": 3 }]));
    let ranked = get(shop.address, "/api/read/product_search?select=name&search_vector=fts.shoes&highlight=name").await?.json();
    assert!(ranked["data"][0]["highlight"]["name"].as_str().is_some_and(|name| name.contains("<mark>Shoes</mark>")), "{ranked}");
    // Groups, whose key may be NULL.
    let groups = get(shop.address, "/api/read/by_brand?order=n.desc,brand&total=exact&facets=n").await?.json();
    assert_eq!(groups["data"][0], serde_json::json!({ "brand": "Acme", "n": 4 }), "{groups}");
    assert_eq!(groups["meta"]["total"], 4);
    let mut paged = 0;
    let mut after = String::new();
    while paged < 10 {
        let page = get(shop.address, &format!("/api/read/by_brand?order=n&limit=1&after={after}")).await?.json();
        paged += page["data"].as_array().map_or(0, Vec::len);
        match page["meta"]["next"].as_str() {
            Some(cursor) => after = cursor.to_owned(),
            None => break,
        }
    }
    assert_eq!(paged, 4);
    shop.projector.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_of_changes() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let mut shop = Shop::open(
        &cluster.url("postgres"),
        "",
        "[[api.warm]]\nprojection = \"product_search\"\npath = \"/api/products?limit=7\"\n",
    )
    .await?;
    let mut feed = Feed::open(shop.address, "/api/changes/product_search", "").await?;
    let ready = feed.next().await?;
    assert_eq!(ready.name, "ready");
    let id: String =
        shop.session.query_one("SELECT id::text FROM read_model.product_search WHERE slug = 'p4'", &[]).await?.get(0);
    shop.session.batch_execute("UPDATE custom_posts SET title = 'Linen Shirt' WHERE slug = 'p4'").await?;
    let change = feed.next().await?;
    assert_eq!(change.name, "change");
    let told: Value = serde_json::from_str(&change.data)?;
    assert_eq!((&told["keys"], &told["rows"]), (&serde_json::json!([{ "id": id }]), &1.into()), "{told}");
    assert!(told["lsn"].is_string() && told["projection"] == "product_search");
    // What nobody reads from the projection is no change of it; groups are known by their columns, NULL too.
    let mut groups = Feed::open(shop.address, "/api/changes/by_brand", "").await?;
    assert_eq!(groups.next().await?.name, "ready");
    shop.session
        .batch_execute("UPDATE custom_posts SET \"updatedAt\" = now() WHERE slug = 'p4'; UPDATE custom_posts SET \"customFields\" = \"customFields\" || '{\"brand\": \"New\"}' WHERE slug = 'p10'")
        .await?;
    let told: Value = serde_json::from_str(&groups.next().await?.data)?;
    assert_eq!(told["keys"], serde_json::json!([{ "brand": null }, { "brand": "New" }]), "{told}");
    let second: Value = serde_json::from_str(&feed.next().await?.data)?;
    assert_eq!(second["keys"].as_array().map(Vec::len), Some(1), "{second}");
    // A client that comes again goes on where it was; whoever has missed too much is told so.
    drop(feed);
    shop.session.batch_execute("UPDATE custom_posts SET title = 'Hemp Shirt' WHERE slug = 'p4'").await?;
    shop.projector.catch_up().await?;
    let mut again = Feed::open(shop.address, "/api/changes/product_search", &format!("Last-Event-ID: {}\r\n", change.id)).await?;
    assert_eq!(serde_json::from_str::<Value>(&again.next().await?.data)?, second);
    let last = again.next().await?;
    assert_eq!(serde_json::from_str::<Value>(&last.data)?["keys"], serde_json::json!([{ "id": id }]));
    // Many rows at once are told as many.
    shop.session
        .batch_execute(
            "INSERT INTO custom_posts (\"postTypeId\", slug, title) SELECT (SELECT id FROM custom_post_types WHERE slug = 'product'), 'm' || n, 'Many' FROM generate_series(1, 3000) n",
        )
        .await?;
    let many: Value = serde_json::from_str(&again.next().await?.data)?;
    assert_eq!((&many["keys"], &many["rows"]), (&Value::Null, &3000.into()));
    until(&shop.session, "SELECT count(*) > 3 FROM lockstep.change").await?;
    shop.session.batch_execute("UPDATE lockstep.change SET at = at - interval '1 day'").await?;
    lockstep_refresh::forget_changes(&shop.session, 600.0).await?;
    let mut late = Feed::open(shop.address, &format!("/api/changes/product_search?since={}", change.id), "").await?;
    assert_eq!(late.next().await?.name, "reset");
    shop.session.batch_execute("DELETE FROM custom_posts WHERE slug = 'm1'").await?;
    assert_eq!(late.next().await?.name, "change");
    // So is who listens all the time, where what was forgotten never came through: here nobody was notified of it.
    shop.session
        .batch_execute(
            "BEGIN; INSERT INTO lockstep.change (projection, rows, at) VALUES ('product_search', 1, now() - interval '1 day')",
        )
        .await?;
    lockstep_refresh::forget_changes(&shop.session, 600.0).await?;
    shop.session.batch_execute("COMMIT").await?;
    shop.session.batch_execute("DELETE FROM custom_posts WHERE slug = 'm2'").await?;
    let told = late.next().await?;
    assert_eq!(told.name, "reset", "{} {}", told.id, told.data);
    shop.projector.stop().await?;
    Ok(())
}

/// The document is valid JSON with every endpoint, and tells the columns' types.
#[tokio::test(flavor = "multi_thread")]
async fn the_document() -> anyhow::Result<()> {
    let cluster = cluster()?;
    let shop = Shop::open(&cluster.url("postgres"), "", "cors_origins = [\"https://shop.example\"]\n").await?;
    let document = get(shop.address, "/openapi.json").await?.json();
    for path in [
        "/api/products",
        "/api/products/search",
        "/api/products/suggest",
        "/api/categories/{id}/products",
        "/api/brands/{brand}/products",
        "/api/read/product_search",
        "/api/read/by_brand",
        "/api/changes/by_brand",
    ] {
        assert!(document["paths"][path]["get"]["responses"]["200"].is_object(), "{path}");
    }
    assert_eq!(
        document["components"]["schemas"]["Product"]["properties"]["in_stock"]["type"],
        serde_json::json!(["boolean", "null"])
    );
    let allowed = get_with(shop.address, "/api/products", "Origin: https://shop.example\r\n").await?;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://shop.example"));
    let asked =
        "Origin: https://shop.example\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: x-request-key\r\n";
    let preflight = ask_with("OPTIONS", shop.address, "/api/products", asked).await?;
    assert!(preflight.header("access-control-allow-headers").is_some_and(|allowed| allowed.contains("x-request-key")));
    let other = get_with(shop.address, "/api/products", "Origin: https://other.example\r\n").await?;
    assert_eq!(other.header("access-control-allow-origin"), None);
    shop.projector.stop().await?;
    Ok(())
}
