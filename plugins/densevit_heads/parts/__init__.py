"""Parts that several heads share, beside `densevit.set_prediction`; no head imports another."""
