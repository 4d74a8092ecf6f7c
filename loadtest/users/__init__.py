"""Load by users who wait for their answers (locust). Only processes of their own import locust and gevent."""
