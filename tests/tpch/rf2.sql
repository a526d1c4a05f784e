-- TPC-H refresh function 2: old sales of batch :batch, one thirtieth (20) of the initial orders
DELETE FROM tpch.lineitem WHERE l_orderkey <= 600 AND l_orderkey % 30 = :batch % 30;

DELETE FROM tpch.orders WHERE o_orderkey <= 600 AND o_orderkey % 30 = :batch % 30;
