-- Sales by platform and month, with each platform's previous month and its share of all platforms.
WITH monthly AS (
    SELECT
        o.platform_id,
        date_trunc('month', o.sold_at)::date AS month,
        count(*)                             AS orders,
        sum(o.gross_sale)                    AS revenue,
        avg(o.roi)                           AS avg_roi
    FROM sales."order" o
    WHERE o.status = 'completed'
    GROUP BY 1, 2
)
SELECT
    platform_id,
    month,
    orders,
    revenue,
    round(avg_roi, 2)                                                     AS avg_roi,
    revenue - lag(revenue) OVER (PARTITION BY platform_id ORDER BY month) AS change,
    round(100 * revenue / sum(revenue) OVER (PARTITION BY month), 2)      AS share_of_month
FROM monthly
