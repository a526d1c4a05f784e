-- TPC-H data: deterministic and small (5/25/40/150/200/800/600/~2400 rows), hash-based, no random()
-- Skewed towards the values the 22 queries ask for, so that none of them comes out empty.

-- Uniform integer in [0, n) for key k; salt separates the columns.
CREATE FUNCTION tpch.h(k bigint, salt integer, n integer) RETURNS integer
LANGUAGE sql IMMUTABLE AS $$
    SELECT ((hashint8extended(k, salt) & 9223372036854775807) % n)::integer
$$;

-- One word of a comma-separated list.
CREATE FUNCTION tpch.pick(words text, k bigint, salt integer) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT (string_to_array(words, ','))[1 + tpch.h(k, salt, cardinality(string_to_array(words, ',')))]
$$;

-- Comment text, 20 to 36 characters.
CREATE FUNCTION tpch.words(k bigint, salt integer) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT tpch.pick('furiously,slyly,carefully,blithely,quickly', k, salt) || ' '
        || tpch.pick('final,regular,express,ironic,pending,bold,even', k, salt + 1) || ' '
        || tpch.pick('deposits,packages,accounts,theodolites,pinto beans,foxes', k, salt + 2) || ' '
        || tpch.pick('sleep,haggle,nag,wake,cajole,doze', k, salt + 3)
$$;

-- Nation: three picks in four go to the nations named by the queries.
CREATE FUNCTION tpch.nation_of(k bigint, salt integer) RETURNS integer
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN tpch.h(k, salt, 4) < 3
        THEN tpch.pick('2,3,6,7,8,12,18,20', k, salt + 1)::integer
        ELSE tpch.h(k, salt + 2, 25) END
$$;

CREATE FUNCTION tpch.phone(nation integer, k bigint, salt integer) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT concat_ws('-', nation + 10, 100 + tpch.h(k, salt, 900),
        100 + tpch.h(k, salt + 1, 900), 1000 + tpch.h(k, salt + 2, 9000))
$$;

-- Supplier i (0..3) of part p, the formula of the specification for 40 suppliers.
CREATE FUNCTION tpch.supplier_of(p integer, i integer) RETURNS integer
LANGUAGE sql IMMUTABLE AS $$
    SELECT (p + i * (10 + (p - 1) / 40)) % 40 + 1
$$;

CREATE FUNCTION tpch.retailprice(p integer) RETURNS numeric
LANGUAGE sql IMMUTABLE AS $$
    SELECT (90000 + (p / 10) % 20001 + 100 * (p % 1000)) / 100.0
$$;

-- Order date: 1992-01-01..1998-08-02, half of the orders around the windows of queries 4 and 10, 3, 14, 15, 5.
CREATE FUNCTION tpch.orderdate(k bigint) RETURNS date
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE tpch.h(k, 101, 10)
        WHEN 0 THEN date '1993-07-01' + tpch.h(k, 102, 184)
        WHEN 1 THEN date '1994-12-01' + tpch.h(k, 102, 104)
        WHEN 2 THEN date '1995-07-01' + tpch.h(k, 102, 62)
        WHEN 3 THEN date '1995-11-15' + tpch.h(k, 102, 92)
        WHEN 4 THEN date '1994-01-01' + tpch.h(k, 102, 365)
        ELSE date '1992-01-01' + tpch.h(k, 102, 2406) END
$$;

-- Line items of the orders lo..hi: 1 to 7 each; one order in twenty is a bulk order (for query 18).
CREATE FUNCTION tpch.make_lineitem(lo bigint, hi bigint) RETURNS SETOF tpch.lineitem
LANGUAGE sql IMMUTABLE AS $$
    WITH line AS (
        SELECT o.k, n, o.k * 8 + n AS x, tpch.orderdate(o.k) AS ordered, o.bulk
        FROM (SELECT k, tpch.h(k, 103, 20) = 0 AS bulk FROM generate_series(lo, hi) k) o,
             generate_series(1, CASE WHEN o.bulk THEN 7 ELSE 1 + tpch.h(o.k, 104, 7) END) n
    ), item AS (
        SELECT *,
            1 + tpch.h(x, 111, 200) AS part,
            CASE WHEN bulk THEN 40 + tpch.h(x, 112, 11) ELSE 1 + tpch.h(x, 112, 50) END AS quantity,
            ordered + 1 + tpch.h(x, 113, 121) AS shipped,
            ordered + 30 + tpch.h(x, 114, 61) AS committed,
            ordered + 1 + tpch.h(x, 113, 121) + 1 + tpch.h(x, 115, 30) AS received,
            tpch.h(x, 116, 8) = 0 AS in_person
        FROM line
    )
    SELECT k, part, tpch.supplier_of(part, tpch.h(x, 117, 4)), n,
        quantity, quantity * tpch.retailprice(part),
        tpch.h(x, 118, 11) / 100.0, tpch.h(x, 119, 9) / 100.0,
        CASE WHEN received > date '1995-06-17' THEN 'N' ELSE tpch.pick('R,A', x, 120) END,
        CASE WHEN shipped > date '1995-06-17' THEN 'O' ELSE 'F' END,
        shipped, committed, received,
        CASE WHEN in_person THEN 'DELIVER IN PERSON'
            ELSE tpch.pick('DELIVER IN PERSON,COLLECT COD,NONE,TAKE BACK RETURN', x, 121) END,
        CASE WHEN in_person THEN 'AIR'
            ELSE tpch.pick('REG AIR,AIR,RAIL,SHIP,TRUCK,MAIL,FOB', x, 122) END,
        tpch.words(x, 123)
    FROM item
$$;

-- Orders lo..hi, status and total price taken from their line items; customers divisible by 3 never order,
-- the higher the key the rarer the orders.
CREATE FUNCTION tpch.make_orders(lo bigint, hi bigint) RETURNS SETOF tpch.orders
LANGUAGE sql IMMUTABLE AS $$
    SELECT k, c + c / 2 + 1, status, total, tpch.orderdate(k),
        tpch.pick('1-URGENT,2-HIGH,3-MEDIUM,4-NOT SPECIFIED,5-LOW', k, 106),
        'Clerk#' || lpad((1 + tpch.h(k, 107, 20))::text, 9, '0'), 0,
        CASE WHEN tpch.h(k, 108, 15) = 0
            THEN 'special ' || tpch.pick('pinto beans,deposits,packages', k, 109) || ' wake requests'
            ELSE tpch.words(k, 131) END
    FROM (
        SELECT l_orderkey AS k, least(tpch.h(l_orderkey, 275, 100), tpch.h(l_orderkey, 276, 100)) AS c,
            CASE WHEN min(l_linestatus) = max(l_linestatus) THEN min(l_linestatus) ELSE 'P' END AS status,
            round(sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)), 2) AS total
        FROM tpch.make_lineitem(lo, hi)
        GROUP BY l_orderkey
    ) o
$$;

INSERT INTO tpch.region
SELECT k, name, tpch.words(k, 1)
FROM (VALUES (0, 'AFRICA'), (1, 'AMERICA'), (2, 'ASIA'), (3, 'EUROPE'), (4, 'MIDDLE EAST')) v (k, name);

INSERT INTO tpch.nation
SELECT k, name, region, tpch.words(k, 5)
FROM (VALUES
    (0, 'ALGERIA', 0), (1, 'ARGENTINA', 1), (2, 'BRAZIL', 1), (3, 'CANADA', 1), (4, 'EGYPT', 4),
    (5, 'ETHIOPIA', 0), (6, 'FRANCE', 3), (7, 'GERMANY', 3), (8, 'INDIA', 2), (9, 'INDONESIA', 2),
    (10, 'IRAN', 4), (11, 'IRAQ', 4), (12, 'JAPAN', 2), (13, 'JORDAN', 4), (14, 'KENYA', 0),
    (15, 'MOROCCO', 0), (16, 'MOZAMBIQUE', 0), (17, 'PERU', 1), (18, 'CHINA', 2), (19, 'ROMANIA', 3),
    (20, 'SAUDI ARABIA', 4), (21, 'VIETNAM', 2), (22, 'RUSSIA', 3), (23, 'UNITED KINGDOM', 3),
    (24, 'UNITED STATES', 1)
) v (k, name, region);

INSERT INTO tpch.supplier
SELECT k, 'Supplier#' || lpad(k::text, 9, '0'), left(md5('s' || k), 10 + tpch.h(k, 11, 20)),
    nation, tpch.phone(nation, k, 12), (tpch.h(k, 15, 1099999) - 99999) / 100.0,
    CASE WHEN k % 13 = 0 THEN 'slyly Customer ' || tpch.words(k, 16) || ' Complaints'
         WHEN k % 13 = 5 THEN 'slyly Customer ' || tpch.words(k, 16) || ' Recommends'
         ELSE tpch.words(k, 16) END
FROM (SELECT k, tpch.nation_of(k, 313) AS nation FROM generate_series(1, 40) k) s;

INSERT INTO tpch.customer
SELECT k, 'Customer#' || lpad(k::text, 9, '0'), left(md5('c' || k), 10 + tpch.h(k, 31, 20)),
    nation, tpch.phone(nation, k, 32), (tpch.h(k, 35, 1099999) - 99999) / 100.0,
    tpch.pick('AUTOMOBILE,BUILDING,BUILDING,FURNITURE,MACHINERY,HOUSEHOLD', k, 36),
    tpch.words(k, 37)
FROM (SELECT k, tpch.nation_of(k, 41) AS nation FROM generate_series(1, 150) k) c;

-- Part kinds 0..2 suit query 19 (1 also 17), 3 query 2, 4 query 8; one name in eight starts with forest (query 20).
INSERT INTO tpch.part
SELECT k,
    (SELECT string_agg(word, ' ' ORDER BY j) FROM (
        SELECT j, colors[1 + (first + j * (1 + tpch.h(k, 53, 22))) % 92] AS word
        FROM generate_series(0, 4) j) w),
    'Manufacturer#' || brand / 10, 'Brand#' || brand,
    CASE WHEN kind = 4 THEN 'ECONOMY ANODIZED STEEL'
        ELSE tpch.pick('STANDARD,SMALL,MEDIUM,LARGE,ECONOMY,PROMO', k, 54) || ' '
            || tpch.pick('ANODIZED,BURNISHED,PLATED,POLISHED,BRUSHED', k, 55) || ' '
            || CASE WHEN kind = 3 THEN 'BRASS' ELSE tpch.pick('TIN,NICKEL,BRASS,STEEL,COPPER', k, 56) END END,
    CASE kind WHEN 0 THEN 1 + tpch.h(k, 57, 5) WHEN 1 THEN 1 + tpch.h(k, 57, 10)
        WHEN 2 THEN 1 + tpch.h(k, 57, 15) WHEN 3 THEN 15 ELSE 1 + tpch.h(k, 57, 50) END,
    CASE kind WHEN 0 THEN 'SM ' || tpch.pick('CASE,BOX,PACK,PKG', k, 58)
        WHEN 1 THEN 'MED BOX' WHEN 2 THEN 'LG ' || tpch.pick('CASE,BOX,PACK,PKG', k, 58)
        ELSE tpch.pick('SM,LG,MED,JUMBO,WRAP', k, 59) || ' '
            || tpch.pick('CASE,BOX,BAG,JAR,PKG,PACK,CAN,DRUM', k, 60) END,
    tpch.retailprice(k), left(tpch.words(k, 61), 23)
FROM (
    SELECT k, kind,
        CASE WHEN tpch.h(k, 51, 8) = 0 THEN 28 ELSE tpch.h(k, 52, 92) END AS first,
        CASE kind WHEN 0 THEN 12 WHEN 1 THEN 23 WHEN 2 THEN 34
        ELSE 11 + 10 * tpch.h(k, 65, 5) + tpch.h(k, 66, 5) END AS brand
    FROM (SELECT k, tpch.h(k, 67, 10) AS kind FROM generate_series(1, 200) k) x
) p, string_to_array('almond,antique,aquamarine,azure,beige,bisque,black,blanched,blue,blush,brown,burlywood,burnished,chartreuse,chiffon,chocolate,coral,cornflower,cornsilk,cream,cyan,dark,deep,dim,dodger,drab,firebrick,floral,forest,frosted,gainsboro,ghost,goldenrod,green,grey,honeydew,hot,indian,ivory,khaki,lace,lavender,lawn,lemon,light,lime,linen,magenta,maroon,medium,metallic,midnight,mint,misty,moccasin,navajo,navy,olive,orange,orchid,pale,papaya,peach,peru,pink,plum,powder,puff,purple,red,rose,rosy,royal,saddle,salmon,sandy,seashell,sienna,sky,slate,smoke,snow,spring,steel,tan,thistle,tomato,turquoise,violet,wheat,white,yellow', ',') colors;

INSERT INTO tpch.partsupp
SELECT p, tpch.supplier_of(p, i), 1 + tpch.h(p * 4 + i, 71, 9999),
    (100 + tpch.h(p * 4 + i, 72, 99901)) / 100.0, tpch.words(p * 4 + i, 73)
FROM generate_series(1, 200) p, generate_series(0, 3) i;

INSERT INTO tpch.orders SELECT * FROM tpch.make_orders(1, 600);

INSERT INTO tpch.lineitem SELECT * FROM tpch.make_lineitem(1, 600);

ANALYZE tpch.region, tpch.nation, tpch.supplier, tpch.customer,
    tpch.part, tpch.partsupp, tpch.orders, tpch.lineitem;
