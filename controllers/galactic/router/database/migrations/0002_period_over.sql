-- Retention removes the periods that ended first, a few at a time: this index has them in that order.

CREATE INDEX period_over ON galactic.period (upper(during)) WHERE NOT upper_inf(during);
