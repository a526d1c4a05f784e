-- How each platform performs.
-- After: composite indexes (platform-specific order filtering, recent sales by platform).
SELECT
    m.id                                                        AS platform_id,
    m.name                                                      AS platform,
    count(*)                                                    AS orders,
    count(*) FILTER (WHERE o.status = 'completed')              AS completed_orders,
    count(*) FILTER (WHERE o.status = 'returned')               AS returned_orders,
    sum(o.gross_sale) FILTER (WHERE o.status = 'completed')     AS revenue,
    sum(o.net_profit) FILTER (WHERE o.status = 'completed')     AS profit,
    round(100 * sum(o.net_profit) / nullif(sum(o.gross_sale), 0), 2) AS margin_percentage,
    avg(o.roi)                                                  AS avg_roi,
    max(o.sold_at)                                              AS last_sale
FROM sales."order" o
JOIN platform.marketplace m ON m.id = o.platform_id
GROUP BY m.id, m.name
