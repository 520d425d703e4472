-- Search finds Latin letters with a stroke, such as those of Vietnamese, Polish and Danish, by the plain letters, and the
-- digits of other scripts by 0 to 9. Only texts with such a letter or digit are prepared anew.
UPDATE traces SET query = query WHERE query || final_answer GLOB '*[đĐðÐħĦıłŁøØŧŦþÞæÆœŒǽǼǣǢǿǾ٠-٩۰-۹߀-߉०-९০-৯੦-੯૦-૯୦-୯௦-௯౦-౯೦-೯൦-൯๐-๙໐-໙༠-༩၀-၉០-៩᠐-᠙]*';
UPDATE templates SET name = name
WHERE name || description || domain || methodology || keywords || body GLOB '*[đĐðÐħĦıłŁøØŧŦþÞæÆœŒǽǼǣǢǿǾ٠-٩۰-۹߀-߉०-९০-৯੦-੯૦-૯୦-୯௦-௯౦-౯೦-೯൦-൯๐-๙໐-໙༠-༩၀-၉០-៩᠐-᠙]*';
