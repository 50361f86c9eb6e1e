"""Sentences without numbers, which make sections as long as an analyst's: they hold of any company, in any year."""

from __future__ import annotations

__all__ = ["COMMENTS", "LEADS", "RISKS"]

COMMENTS: dict[str, tuple[str, ...]] = {
    "results": (
        "Price increases were accepted by most customers.",
        "Exchange rates played no great part in this.",
        "Management kept a close eye on overheads throughout.",
        "Demand was steadier than many in the sector had feared.",
        "There were no one-off items worth mentioning.",
        "The accounts follow the same rules as before.",
        "Our own model had pointed in the same direction.",
        "Bad debts remained rare.",
    ),
    "segments": (
        "Each of the three has its own management and its own plants.",
        "Prices between segments are those of the market.",
        "Sales between segments are left out of these amounts.",
        "The split has been the same for years, so the series can be compared.",
        "The mix of products shifted little.",
        "Competition differs a good deal from one segment to the next.",
        "Management names no segment as a candidate for sale.",
    ),
    "regions": (
        "Sales are shown by the customer's address, not by the place of production.",
        "Distribution is in the hands of own subsidiaries almost everywhere.",
        "Local competitors are strongest where wages are low.",
        "Growth outside the home market has been a stated aim for years.",
        "No single country dominates.",
        "Transport costs still favour plants close to the customer.",
        "Translation effects are shown in the annex to the accounts.",
    ),
    "margins": (
        "Raw materials and energy remain the swing factors.",
        "The product mix helped, while wages worked the other way.",
        "Purchasing has been bundled across the group.",
        "Rebates were granted with more care than in earlier periods.",
        "We see room for better use of the plants.",
        "Freight costs have come back to a normal level.",
        "Depreciation follows the pattern of earlier investment.",
    ),
    "balance": (
        "Covenants leave ample headroom.",
        "The bonds are spread over several maturities.",
        "Working capital is managed tightly.",
        "No larger acquisition is being prepared, as far as we know.",
        "Pension obligations are small and mostly funded.",
        "Liquidity is ensured by an undrawn credit line.",
        "Banks regard the company as a sound borrower.",
    ),
    "investment": (
        "Most of the money went into automation and new tools.",
        "Development partners from universities take part in several projects.",
        "Older lines are being replaced one after the other.",
        "The pipeline of new products looks well filled.",
        "None of the development costs were capitalised.",
        "Energy saving measures paid back quickly.",
        "Two larger projects were finished on time.",
    ),
    "market": (
        "Customers order earlier than they used to, to be sure of delivery.",
        "Cancellations were few.",
        "Framework contracts give some visibility.",
        "Smaller rivals are leaving the market or looking for partners.",
        "The service business ties customers to the brand.",
        "Tenders have become longer and more demanding.",
        "The brand is well known among professional buyers.",
    ),
    "workforce": (
        "Skilled technicians are hard to find in most places.",
        "Wage agreements run for some time yet.",
        "Relations with the unions are described as constructive.",
        "Apprentices are taken on every autumn.",
        "Remote work is possible in the offices, but not in the plants.",
        "A survey among the staff showed good marks for team leaders.",
        "Safety at work has the board's attention.",
    ),
    "outlook": (
        "We regard these goals as realistic.",
        "The order intake of recent weeks supports the plan.",
        "A sharp recession would put it at risk.",
        "Management has a record of cautious promises.",
        "The plan rests on stable exchange rates.",
        "Details will follow at the capital markets day.",
    ),
    "rating": (
        "We value the company by discounted cash flow and by comparison with peers.",
        "Liquidity of the share is sufficient for institutional orders.",
        "Neither this house nor its staff hold shares of the company.",
        "The free float includes most of the capital.",
        "Estimates are reviewed after each set of results.",
        "Governance is up to the standard of its listing.",
        "Better cash conversion would be a reason to think again.",
    ),
    "sector": (
        "Our figures combine customs data, company reports and interviews with buyers.",
        "Consolidation goes on at a measured pace.",
        "Regulation has become a matter for the top management.",
        "Differences between good and weak suppliers have widened.",
        "Buyers look at total cost rather than at list prices.",
        "Lead times have returned to what they used to be.",
        "Newcomers find it hard to build a service network.",
        "Private equity takes a growing interest in the sector.",
    ),
    "memo": (
        "The figures were approved by the research committee.",
        "Exceptions need the consent of the head of research.",
        "The next review takes place in the autumn.",
        "Questions go to the desk that is named at the top.",
        "This memo replaces all earlier versions.",
        "It is meant for internal use and must not be passed on.",
        "Staff who cover several sectors apply the same rules throughout.",
    ),
}

# What introduces a table.
LEADS: tuple[str, ...] = (
    "",
    "The table shows the main figures.",
    "The figures at a glance:",
    "Details are given in the table below.",
    "An overview, as reported:",
    "Key numbers, side by side:",
)

# Of each sector; a word of each names the risk.
RISKS: dict[str, tuple[str, ...]] = {
    "industrial automation": (
        "A shortage of electronic parts could delay deliveries.",
        "Car makers may postpone their orders.",
        "Cheap rivals from abroad press on prices.",
        "Cyber attacks on connected machines are a growing danger.",
    ),
    "medical technology": (
        "Hospitals may cut their budgets.",
        "Approval of new devices can take longer than planned.",
        "A product recall would hurt the brand.",
        "Health insurers press for lower prices.",
    ),
    "food and beverages": (
        "A poor harvest would drive up the cost of ingredients.",
        "Retail chains use their bargaining power.",
        "A sugar tax is being discussed in several countries.",
        "Consumers may switch to cheaper store brands.",
    ),
    "renewable energy": (
        "Permits for new projects are often late.",
        "Subsidies depend on politics.",
        "Steel and copper prices swing widely.",
        "Grid connections are a bottleneck.",
    ),
    "logistics": (
        "A lack of drivers limits growth.",
        "Fuel prices can only be passed on with delay.",
        "Strikes at ports would disrupt the network.",
        "Large shippers may build fleets of their own.",
    ),
}
