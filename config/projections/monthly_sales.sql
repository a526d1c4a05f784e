-- Completed sales by month, and how they grew. The sums are maintained by month; only the growth looks at all months.
WITH monthly AS (
    SELECT
        date_trunc('month', o.sold_at)::date AS month,
        count(*)                             AS orders,
        sum(o.gross_sale)                    AS revenue,
        sum(o.net_profit)                    AS profit
    FROM sales."order" o
    WHERE o.status = 'completed'
    GROUP BY 1
)
SELECT
    month,
    orders,
    revenue,
    profit,
    lag(revenue) OVER (ORDER BY month)                                               AS previous_revenue,
    round(100 * (revenue - lag(revenue) OVER (ORDER BY month))
              / nullif(lag(revenue) OVER (ORDER BY month), 0), 2)                    AS growth_percentage
FROM monthly
