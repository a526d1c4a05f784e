-- The sample source schema: the tables that the shipped projections read, with the columns that their seeds name.

-- The content platform: everything about a product lies in JSONB. Quoted camelCase on purpose, as the application's ORM writes it.
CREATE TABLE custom_post_types (
    id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    slug text NOT NULL UNIQUE,
    name text NOT NULL
);

CREATE TABLE custom_posts (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    "postTypeId"   uuid NOT NULL REFERENCES custom_post_types (id),
    slug           text NOT NULL,
    title          text NOT NULL,
    content        text,
    status         text NOT NULL DEFAULT 'draft',
    "customFields" jsonb NOT NULL DEFAULT '{}',
    "createdAt"    timestamptz NOT NULL DEFAULT now(),
    "updatedAt"    timestamptz NOT NULL DEFAULT now(),
    "publishedAt"  timestamptz
);
CREATE INDEX idx_custom_posts_type ON custom_posts ("postTypeId");
CREATE INDEX idx_custom_posts_slug ON custom_posts (slug);

-- The shop: orders spread over several schemas.
CREATE SCHEMA catalog;
CREATE SCHEMA inventory;
CREATE SCHEMA sales;
CREATE SCHEMA platform;

CREATE TABLE catalog.brand (
    id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL
);

CREATE TABLE catalog.category (
    id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL
);

CREATE TABLE catalog.product (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    sku             text NOT NULL,
    name            text NOT NULL,
    brand_id        uuid REFERENCES catalog.brand (id),
    category_id     uuid REFERENCES catalog.category (id),
    enrichment_data jsonb,
    created_at      timestamp NOT NULL DEFAULT now()
);
CREATE INDEX idx_product_brand ON catalog.product (brand_id);
CREATE INDEX idx_product_category ON catalog.product (category_id);

CREATE TABLE inventory.stock (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    product_id     uuid NOT NULL REFERENCES catalog.product (id),
    supplier_id    uuid,
    size_id        uuid,
    status         text NOT NULL DEFAULT 'in_stock',
    quantity       integer NOT NULL DEFAULT 1,
    purchase_price numeric(10,2),
    purchase_date  timestamptz,
    listed_stockx  boolean NOT NULL DEFAULT false
);
CREATE INDEX idx_stock_product_status ON inventory.stock (product_id, status);

CREATE TABLE platform.marketplace (
    id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL
);

CREATE TABLE sales."order" (
    id                     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    inventory_item_id      uuid REFERENCES inventory.stock (id),
    platform_id            uuid NOT NULL REFERENCES platform.marketplace (id),
    external_id            text,
    status                 text NOT NULL DEFAULT 'pending',
    sold_at                timestamp NOT NULL DEFAULT now(),
    gross_sale             numeric(10,2) NOT NULL,
    net_profit             numeric(10,2),
    platform_fee           numeric(10,2),
    shipping_cost          numeric(10,2),
    roi                    numeric(8,2),
    platform_specific_data jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX idx_order_external_id ON sales."order" (external_id);
CREATE INDEX idx_order_inventory_item ON sales."order" (inventory_item_id);
CREATE INDEX idx_order_platform_status ON sales."order" (platform_id, status);
CREATE INDEX idx_order_sold_date_platform ON sales."order" (sold_at DESC, platform_id);

CREATE TABLE sales.listing (
    id                     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    stock_id               uuid NOT NULL REFERENCES inventory.stock (id),
    platform_id            uuid NOT NULL REFERENCES platform.marketplace (id),
    status                 text NOT NULL DEFAULT 'active',
    amount                 numeric(10,2),
    platform_specific_data jsonb NOT NULL DEFAULT '{}'
);

-- Fragmented: four tables beside inventory.stock, one row each.
CREATE TABLE inventory.stock_financial (
    stock_id       uuid PRIMARY KEY REFERENCES inventory.stock (id) ON DELETE CASCADE,
    purchase_price numeric(10,2),
    sale_price     numeric(10,2),
    fees           jsonb
);

CREATE TABLE inventory.stock_lifecycle (
    stock_id   uuid PRIMARY KEY REFERENCES inventory.stock (id) ON DELETE CASCADE,
    status     varchar(20) NOT NULL,
    changed_at timestamp NOT NULL DEFAULT now()
);

CREATE TABLE inventory.stock_metrics (
    stock_id    uuid PRIMARY KEY REFERENCES inventory.stock (id) ON DELETE CASCADE,
    views       integer NOT NULL DEFAULT 0,
    days_listed integer
);

CREATE TABLE inventory.stock_reservation (
    stock_id     uuid PRIMARY KEY REFERENCES inventory.stock (id) ON DELETE CASCADE,
    reserved_qty integer NOT NULL DEFAULT 0,
    reserved_by  uuid,
    expires_at   timestamp
);

-- The transaction table that sales."order" replaces.
CREATE SCHEMA financial;
CREATE TABLE financial.transaction (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    external_id text,
    amount      numeric(10,2) NOT NULL,
    booked_at   timestamp NOT NULL DEFAULT now()
);
CREATE INDEX idx_transaction_external_id ON financial.transaction (external_id);

-- The matching service's items.
CREATE TABLE items (
    id             bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    owner_id       bigint NOT NULL,
    title          text NOT NULL,
    status         varchar(20) NOT NULL DEFAULT 'open',
    category       varchar(100) NOT NULL,
    geohash        varchar(12),
    location_point point,
    is_deleted     boolean NOT NULL DEFAULT false,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_items_created_at ON items (created_at);
