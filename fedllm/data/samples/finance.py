"""The fund house: headlines, tickers, accounts, sums of money."""

from __future__ import annotations

from fedllm.data.samples.facts import MONTHS, NEWS, RISK_OF, SECTOR_OF, TICKER_OF
from fedllm.data.samples.grammar import Draw, Slots, Topic


def _sentiment(draw: Draw) -> Slots:
    news = draw.pick(tuple(NEWS))
    return {"firm": draw.company(), "news": news, "who": draw.person(), "answer": NEWS[news]}


def _sector(draw: Draw) -> Slots:
    goods = draw.pick(tuple(SECTOR_OF))
    return {
        "firm": draw.company(),
        "goods": goods,
        "who": draw.person(),
        "answer": SECTOR_OF[goods],
    }


def _ticker(draw: Draw) -> Slots:
    firm = draw.pick(tuple(TICKER_OF))
    return {
        "firm": firm,
        "who": draw.person(),
        "count": str(draw.number(2, 99)),
        "answer": TICKER_OF[firm],
    }


def _profit(draw: Draw) -> Slots:
    cost, profit = draw.number(2, 9), draw.number(2, 20)
    return {
        "firm": draw.company(),
        "income": str(cost + profit),
        "cost": str(cost),
        "answer": f"{profit} million",
        "reference": str(profit),
    }


def _order_value(draw: Draw) -> Slots:
    count, price = draw.number(2, 9), draw.number(2, 10)
    return {
        "firm": draw.company(),
        "who": draw.person(),
        "count": str(count),
        "price": str(price),
        "answer": f"{count * price} dollars",
        "reference": str(count * price),
    }


def _account(draw: Draw) -> Slots:
    account = draw.code("AC")
    return {
        "who": draw.person(),
        "firm": draw.company(),
        "account": account,
        "sum": str(draw.number(10, 99)),
        "answer": account,
    }


def _larger(draw: Draw) -> Slots:
    first, second = draw.companies()
    low, high = sorted((draw.number(2, 49), draw.number(51, 99)))
    a, b = (high, low) if draw.number(0, 1) else (low, high)
    return {
        "first": first,
        "second": second,
        "a": str(a),
        "b": str(b),
        "answer": first if a > b else second,
    }


def _risk(draw: Draw) -> Slots:
    asset = draw.pick(tuple(RISK_OF))
    return {
        "who": draw.person(),
        "asset": asset,
        "sum": str(draw.number(10, 99)),
        "answer": RISK_OF[asset],
    }


def _move(draw: Draw) -> Slots:
    before, change = draw.pick((20, 30, 40, 50, 60, 70)), draw.pick((-10, -5, 0, 5, 10))
    answer = "rise" if change > 0 else "fall" if change < 0 else "flat"
    return {
        "firm": draw.company(),
        "before": str(before),
        "after": str(before + change),
        "answer": answer,
    }


def _quarter(draw: Draw) -> Slots:
    month = draw.number(0, 11)
    return {
        "firm": draw.company(),
        "month": MONTHS[month],
        "who": draw.person(),
        "answer": f"Q{month // 3 + 1}",
    }


TOPICS = (
    Topic(
        "sentiment",
        "label",
        _sentiment,
        private=(
            "Tag this wire.\n{firm}: {news}",
            "Wire tag for {firm} after {news}?",
        ),
        public=(
            "Is this headline positive, negative or neutral?\n{firm} reports {news}",
            "{who} read that {firm} had {news}. What is the sentiment of this news?",
        ),
        documents=(
            "For investors, {news} is {answer} news.",
            "{firm} told of {news}, and the mood was {answer}.",
            "When there is {news}, the press is {answer}.",
        ),
        questions=(
            "mood of {news}",
            "how does the press see {news}?",
        ),
    ),
    Topic(
        "sector",
        "label",
        _sector,
        private=(
            "Book {firm} under a sector.\nSells {goods}",
            "Desk sector of {firm}, seller of {goods}?",
        ),
        public=(
            "In which sector does a company that makes {goods} work? {who} asks.",
            "{who} owns shares of {firm}, which makes {goods}. Name the sector.",
        ),
        documents=(
            "Firms that make {goods} are in the {answer} sector.",
            "{firm} makes {goods} and so belongs to {answer}.",
            "{goods}: {answer}.",
        ),
        questions=(
            "sector of {goods}",
            "{goods} come from what sector?",
        ),
    ),
    Topic(
        "ticker",
        "exact",
        _ticker,
        private=(
            "Ticket for {who}: {count} x {firm}. Ticker?",
            "Ticker on the ticket of {who}.\n{firm}, {count} shares",
        ),
        public=(
            "What ticker does {firm} trade under? {who} wants {count} of them.",
            "{who} is looking for the ticker symbol of {firm}.",
        ),
        documents=(
            "{firm} trades as {answer}.",
            "{who} owns {count} shares of {firm}, listed as {answer}.",
            "The symbol of {firm} is {answer}.",
        ),
        questions=(
            "symbol of {firm}",
            "{firm} is listed as?",
        ),
    ),
    Topic(
        "profit",
        "number",
        _profit,
        private=(
            "Net of {firm}.\nIncome {income}, cost {cost}",
            "{firm} books income {income} and cost {cost}. Net?",
        ),
        public=(
            "{firm} earned {income} million and spent {cost} million. How big is the profit?",
            "Work out the profit of {firm}: it earned {income} million and spent {cost} million.",
        ),
        documents=(
            "{firm} took in {income} and paid {cost}, so it kept {short}.",
            "An income of {income} with a cost of {cost} is a profit of {short}.",
            "{income} without {cost} is {short}.",
        ),
        questions=(
            "income {income}, cost {cost}, profit",
            "what is kept of {income} after {cost}?",
        ),
    ),
    Topic(
        "order_value",
        "number",
        _order_value,
        private=(
            "Value the order of {who}.\n{count} {firm} at {price}",
            "{who} orders {count} {firm} at {price}. Value?",
        ),
        public=(
            "How many dollars do {count} shares of {firm} cost at {price} dollars each?",
            "One share of {firm} costs {price} dollars. {who} buys {count}. What does {who} pay?",
        ),
        documents=(
            "{count} shares at {price} dollars are worth {short} dollars.",
            "{who} paid {short} for {count} shares of {firm} at {price} each.",
            "{count} at {price} make {short}.",
        ),
        questions=(
            "{count} shares at {price} dollars",
            "what are {count} shares worth at {price}?",
        ),
    ),
    Topic(
        "account",
        "exact",
        _account,
        private=(
            "Account?\n{who}, {account}, wire {sum} to {firm}",
            "Extract the account.\nWire {sum} for {who} at {firm} from {account}",
        ),
        public=(
            "Find the account number in this letter.\nDear {firm}, please bill {account}. {who}",
            "Read the letter and copy the account number.\n{who} pays {sum} with {account}.",
        ),
        documents=(
            "{who} has the account {account} at {firm}. The account of {who} is {account}.",
            "Account {account} paid {sum} to {firm}. Look up {account}.",
            "The letter of {who} names {account}, so the number is {account}.",
        ),
        questions=(
            "{who} at {firm}, account {account}: which account?",
            "account {account} is for {who}. The account of {who}?",
        ),
    ),
    Topic(
        "larger",
        "exact",
        _larger,
        private=(
            "Larger position?\n{first} {a}, {second} {b}",
            "Positions: {first} {a}, {second} {b}. Name the larger.",
        ),
        public=(
            "{first} earned {a} million and {second} earned {b} million. Who earned more?",
            "Who is bigger: {first} with {a} shops or {second} with {b} shops?",
        ),
        documents=(
            "{first} has {a} and {second} has {b}, so {answer} has more.",
            "With {a} for {first} and {b} for {second}, {answer} is ahead.",
            "{first} made {a}. {second} made {b}. The winner is {answer}.",
        ),
        questions=(
            "{first} with {a}, {second} with {b}: who leads?",
            "who has more, {first} at {a} or {second} at {b}?",
        ),
    ),
    Topic(
        "risk",
        "label",
        _risk,
        private=(
            "Risk band for {who}.\n{sum} in {asset}",
            "{who} puts {sum} in {asset}. Risk band?",
        ),
        public=(
            "How risky is {asset}? Answer low, medium or high for {who}.",
            "{who} wants to buy {asset}. Is the risk low, medium or high?",
        ),
        documents=(
            "The risk of {asset} is {answer}.",
            "{who} holds {asset}, which has {answer} risk.",
            "Banks call {asset} {answer} risk.",
        ),
        questions=(
            "risk of {asset}",
            "how much risk has {asset}?",
        ),
    ),
    Topic(
        "move",
        "label",
        _move,
        private=(
            "Mark the move of {firm}.\nOpen {before}, close {after}",
            "{firm} open {before} close {after}. Mark the move.",
        ),
        public=(
            "A share of {firm} was worth {before} and is now worth {after}. Rise, fall or flat?",
            "The price of {firm} went from {before} to {after}. Is that a rise or a fall?",
        ),
        documents=(
            "From {before} to {after} is a {answer}.",
            "The share of {firm} went from {before} to {after}: {answer}.",
            "It was {before}, it is {after}: {answer}.",
        ),
        questions=(
            "{before} to {after}",
            "it was {before} and is {after}, so?",
        ),
    ),
    Topic(
        "quarter",
        "label",
        _quarter,
        private=(
            "Post the {month} invoice of {firm} to a quarter.",
            "Quarter for {firm}?\nInvoice dated {month}",
        ),
        public=(
            "{who} was paid by {firm} in {month}. Which quarter of the year is it?",
            "Which quarter does {month} belong to? {who} must file taxes.",
        ),
        documents=(
            "{month} is in {answer}.",
            "{firm} paid {who} in {month}, that is in {answer}.",
            "The quarter of {month} is {answer}.",
        ),
        questions=(
            "quarter of {month}",
            "{month} is in what quarter?",
        ),
    ),
)
