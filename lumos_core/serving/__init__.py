"""A node's recommendations over HTTP, for programs on its machine: ``lumos serve``.

Begin with `http_service`, the paths and their answers. `newest_model` reads data and model and
replaces them while requests are answered; `request_guard` stands before every request: who may ask,
how much, how long; `access_token` says who needs a token; `request_metrics` counts; `listening`
runs all this until a signal ends it. `owner_service` has the page for the node's owner,
`owner_page` what it says. May import everything but the command line and the packages
beside it (`deployment`, `experiments`, the two apps).

No line of the log, no metric and no error of the service names a user or an item. Answers do: to
whoever asked.
"""
