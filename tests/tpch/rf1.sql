-- TPC-H refresh function 1: new sales of batch :batch, 20 orders with their line items
INSERT INTO tpch.orders
SELECT * FROM tpch.make_orders(10000 + :batch * 20 + 1, 10000 + :batch * 20 + 20);

INSERT INTO tpch.lineitem
SELECT * FROM tpch.make_lineitem(10000 + :batch * 20 + 1, 10000 + :batch * 20 + 20);
