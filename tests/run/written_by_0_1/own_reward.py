"""A reward that a random model earns."""


def letters(completions, **columns):
    return [sum(map(ord, messages[0]["content"])) % 97 / 97 for messages in completions]
