-- Orders with the hot fields of platform_specific_data as columns.
-- After: Multi-Platform JSONB Optimization.
SELECT
    o.id,
    o.inventory_item_id,
    o.platform_id,
    o.external_id,
    o.status,
    o.sold_at,
    o.gross_sale,
    o.net_profit,
    o.platform_fee,
    o.roi,
    o.platform_specific_data ->> 'orderId'                              AS platform_order_id,
    (o.platform_specific_data ->> 'shippingCost')::numeric(10,2)        AS shipping_cost,
    (o.platform_specific_data ->> 'totalFees')::numeric(10,2)           AS total_fees
FROM sales."order" o
