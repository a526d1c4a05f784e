-- The seventeen indexes of the search view; the primary key (id) comes with the table.
CREATE INDEX idx_product_search_slug           ON product_search (slug);
CREATE INDEX idx_product_search_sku            ON product_search (sku);
CREATE INDEX idx_product_search_status         ON product_search (status);
CREATE INDEX idx_product_search_type           ON product_search (type);
CREATE INDEX idx_product_search_category       ON product_search (category_id);
CREATE INDEX idx_product_search_brand          ON product_search (brand);
CREATE INDEX idx_product_search_supplier       ON product_search (supplier_id);
CREATE INDEX idx_product_search_price          ON product_search (recommended_price);
CREATE INDEX idx_product_search_inventory      ON product_search (inventory);
CREATE INDEX idx_product_search_created        ON product_search (created_at DESC);
CREATE INDEX idx_product_search_rating         ON product_search (rating DESC NULLS LAST);
CREATE INDEX idx_product_search_discount       ON product_search (discount_percentage DESC) WHERE discount_percentage > 0;
CREATE INDEX idx_product_search_in_stock_price ON product_search (recommended_price) WHERE in_stock;
CREATE INDEX idx_product_search_category_price ON product_search (category_id, recommended_price) WHERE status = 'publish';
CREATE INDEX idx_product_search_brand_created  ON product_search (brand, created_at DESC) WHERE status = 'publish';
CREATE INDEX idx_product_search_text           ON product_search USING gin (search_vector);
CREATE INDEX idx_product_search_fields         ON product_search USING gin (all_fields jsonb_path_ops);
