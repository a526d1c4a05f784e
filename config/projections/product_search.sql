-- Product search over custom_posts, where everything about a product lies in JSONB.
-- After: Migration Plan: CustomPost + Materialized View Implementation (mv_product_search).
SELECT
    p.id,
    p.slug,
    p.title                                               AS name,
    p.content                                             AS description,
    p.status,
    p."createdAt"                                         AS created_at,
    p."publishedAt"                                       AS published_at,
    p."customFields" ->> 'sku'                            AS sku,
    p."customFields" ->> 'type'                           AS type,
    (p."customFields" ->> 'isActive')::boolean            AS is_active,
    (p."customFields" ->> 'supplierPrice')::numeric       AS supplier_price,
    (p."customFields" ->> 'recommendedPrice')::numeric    AS recommended_price,
    (p."customFields" ->> 'comparePrice')::numeric        AS compare_price,
    p."customFields" ->> 'currency'                       AS currency,
    (p."customFields" ->> 'inventory')::integer           AS inventory,
    (p."customFields" ->> 'trackInventory')::boolean      AS track_inventory,
    p."customFields" ->> 'supplierId'                     AS supplier_id,
    p."customFields" ->> 'categoryId'                     AS category_id,
    p."customFields" ->> 'brand'                          AS brand,
    p."customFields" ->> 'model'                          AS model,
    p.status = 'publish'
        AND (NOT coalesce((p."customFields" ->> 'trackInventory')::boolean, false)
             OR coalesce((p."customFields" ->> 'inventory')::integer, 0) > 0) AS in_stock,
    CASE
        WHEN (p."customFields" ->> 'comparePrice')::numeric > (p."customFields" ->> 'recommendedPrice')::numeric
        THEN round(100 * (1 - (p."customFields" ->> 'recommendedPrice')::numeric
                              / (p."customFields" ->> 'comparePrice')::numeric), 2)
        ELSE 0
    END                                                   AS discount_percentage,
    to_tsvector('english',
        p.title || ' ' || coalesce(p.content, '') || ' ' || coalesce(p."customFields" ->> 'brand', '')
                || ' ' || coalesce(p."customFields" ->> 'model', '')) AS search_vector,
    (p."customFields" -> 'metadata' ->> 'rating')::numeric      AS rating,
    (p."customFields" -> 'metadata' ->> 'reviewCount')::integer AS review_count,
    p."customFields"                                      AS all_fields
FROM custom_posts p
WHERE p."postTypeId" IN (SELECT t.id FROM custom_post_types t WHERE t.slug = 'product')
