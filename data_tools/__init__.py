"""Commands that make, convert and check data: ``python -m data_tools.NAME``. They use ``gpg_vl``, never the reverse."""
