-- Sample data: as many products, stock items and orders as the setting lockstep.products says. Deterministic but for the ids.
SELECT setseed(0.42);

INSERT INTO custom_post_types (slug, name) VALUES ('product', 'Product'), ('page', 'Page');

INSERT INTO custom_posts ("postTypeId", slug, title, content, status, "customFields", "createdAt", "publishedAt")
SELECT CASE WHEN n % 20 = 0 THEN page.id ELSE product.id END,
       'item-' || n,
       (ARRAY['Runner', 'Classic', 'Trail', 'Court', 'Canvas'])[1 + n % 5] || ' ' || n,
       'A ' || (ARRAY['light', 'durable', 'limited', 'comfortable'])[1 + n % 4] || ' item for every day, number ' || n,
       CASE WHEN n % 10 = 0 THEN 'draft' ELSE 'publish' END,
       jsonb_build_object(
           'sku', 'SKU-' || lpad(n::text, 8, '0'), 'type', (ARRAY['physical', 'digital'])[1 + n % 2],
           'isActive', n % 15 <> 0,
           'supplierPrice', 20 + n % 180, 'recommendedPrice', 40 + n % 300, 'comparePrice', 50 + n % 320, 'currency', 'KRW',
           'inventory', n % 60, 'trackInventory', n % 3 <> 0,
           'supplierId', 'supplier-' || n % 40, 'categoryId', 'category-' || n % 25,
           'brand', (ARRAY['Acme', 'Borealis', 'Cirrus', 'Dune', 'Ember'])[1 + n % 5], 'model', 'M' || n % 100,
           'metadata', jsonb_build_object('rating', round((1 + random() * 4)::numeric, 1), 'reviewCount', n % 500)),
       timestamptz '2026-01-01' + n * interval '1 minute',
       CASE WHEN n % 10 <> 0 THEN timestamptz '2026-01-02' + n * interval '1 minute' END
FROM generate_series(1, current_setting('lockstep.products')::int) AS n,
     (SELECT id FROM custom_post_types WHERE slug = 'product') AS product,
     (SELECT id FROM custom_post_types WHERE slug = 'page') AS page;

INSERT INTO catalog.brand (name) SELECT 'Brand ' || n FROM generate_series(1, 40) AS n;
INSERT INTO catalog.category (name) SELECT 'Category ' || n FROM generate_series(1, 15) AS n;
INSERT INTO platform.marketplace (name) VALUES ('StockX'), ('eBay'), ('GOAT'), ('Alias'), ('Own shop');

WITH brands AS (SELECT array_agg(id) AS ids FROM catalog.brand), categories AS (SELECT array_agg(id) AS ids FROM catalog.category)
INSERT INTO catalog.product (sku, name, brand_id, category_id)
SELECT 'P-' || n, 'Product ' || n,
       CASE WHEN n % 33 <> 0 THEN brands.ids[1 + n % 40] END,
       categories.ids[1 + n % 15]
FROM generate_series(1, current_setting('lockstep.products')::int / 4) AS n, brands, categories;

WITH products AS (SELECT array_agg(id) AS ids FROM catalog.product)
INSERT INTO inventory.stock (product_id, status, quantity, purchase_price, purchase_date, listed_stockx)
SELECT products.ids[1 + n % array_length(products.ids, 1)],
       (ARRAY['in_stock', 'in_stock', 'reserved', 'sold'])[1 + n % 4], 1 + n % 7,
       round((10 + random() * 200)::numeric, 2), timestamptz '2026-06-01' + n % 150 * interval '1 day', n % 3 = 0
FROM generate_series(1, current_setting('lockstep.products')::int) AS n, products;

WITH items AS (SELECT array_agg(id) AS ids FROM inventory.stock), platforms AS (SELECT array_agg(id) AS ids FROM platform.marketplace)
INSERT INTO sales."order" (inventory_item_id, platform_id, external_id, status, sold_at, gross_sale, net_profit, platform_fee, shipping_cost, roi, platform_specific_data)
SELECT items.ids[1 + n % array_length(items.ids, 1)], platforms.ids[1 + n % 5], 'EXT-' || n,
       (ARRAY['completed', 'completed', 'completed', 'pending', 'returned'])[1 + n % 5],
       timestamp '2026-08-01' + n % 100 * interval '1 day' + n % 1440 * interval '1 minute',
       amount, round(amount * 0.2, 2), round(amount * 0.1, 2), 8.50, round((random() * 60)::numeric, 2),
       jsonb_build_object('orderId', 'PO-' || n, 'shippingCost', 8.5, 'totalFees', round(amount * 0.12, 2))
FROM (SELECT n, round((50 + random() * 300)::numeric, 2) AS amount
      FROM generate_series(1, current_setting('lockstep.products')::int) AS n) AS s, items, platforms;

INSERT INTO sales.listing (stock_id, platform_id, amount, platform_specific_data)
SELECT s.id, m.id, s.purchase_price * 2, jsonb_build_object('listingId', 'L-' || s.id)
FROM inventory.stock s CROSS JOIN (SELECT id FROM platform.marketplace WHERE name = 'StockX') AS m
WHERE s.listed_stockx;

INSERT INTO inventory.stock_financial (stock_id, purchase_price, sale_price, fees)
SELECT s.id, s.purchase_price, s.purchase_price * 1.4, jsonb_build_object('platform', round(s.purchase_price * 0.1, 2)) FROM inventory.stock s;
INSERT INTO inventory.stock_lifecycle (stock_id, status, changed_at) SELECT s.id, s.status, s.purchase_date FROM inventory.stock s;
INSERT INTO inventory.stock_metrics (stock_id, views, days_listed) SELECT s.id, s.quantity * 17, s.quantity * 3 FROM inventory.stock s WHERE s.listed_stockx;
INSERT INTO inventory.stock_reservation (stock_id, reserved_qty, expires_at)
SELECT s.id, 1, s.purchase_date + interval '30 days' FROM inventory.stock s WHERE s.status = 'reserved';

-- Every ninth transaction has no order.
INSERT INTO financial.transaction (external_id, amount, booked_at)
SELECT CASE WHEN n % 9 = 0 THEN 'OLD-' || n ELSE 'EXT-' || n END, 50 + n % 300, timestamp '2026-08-01' + n % 100 * interval '1 day'
FROM generate_series(1, current_setting('lockstep.products')::int / 2) AS n;

INSERT INTO items (owner_id, title, status, category, geohash, location_point, is_deleted, created_at)
SELECT 1 + n % 500, 'Item ' || n, (ARRAY['open', 'matched', 'closed'])[1 + n % 3], (ARRAY['electronics', 'keys', 'clothing', 'documents'])[1 + n % 4],
       CASE WHEN n % 12 <> 0 THEN substr(md5((n % 400)::text), 1, 5) || substr(md5(n::text), 1, 4) END,
       point(52 + (n % 100) / 1000.0, 13 + (n % 90) / 1000.0), n % 25 = 0, now() - n % 60 * interval '1 day'
FROM generate_series(1, current_setting('lockstep.products')::int) AS n;

ANALYZE;
